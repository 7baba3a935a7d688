"""The instance metadata service (IMDSv2) of a rehearsed instance, which serves a JSON file.

Runs as a script in the instance's network container, at the link-local address, so it must not import
modules of the factory.

    python3 -I imds.py FILE [ADDRESS PORT]
"""

import base64
import fcntl
import json
import secrets
import socket
import struct
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LINK_LOCAL = "169.254.169.254"
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 (the header's name)
_TTL_HEADER = f"{_TOKEN_HEADER}-ttl-seconds"
_LONGEST_S = 21600
_SET_ADDRESS, _SET_MASK = 0x8916, 0x891C  # SIOCSIFADDR, SIOCSIFNETMASK


class Answer(Exception):
    """Raised to answer a request with an HTTP error."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    server: "Metadata"

    def do_PUT(self) -> None:
        self._answer(self._make_token)

    def do_GET(self) -> None:
        self._answer(self._read)

    do_HEAD = do_GET  # noqa: N815 (the base class looks for these)

    def _answer(self, make: Any) -> None:
        headers: dict[str, str] = {}
        try:
            self.server.check_endpoint()
            body, headers = make()
            status = HTTPStatus.OK
        except Answer as answer:
            body, status = f"{answer.status.value} - {answer.status.phrase}\n".encode(), answer.status
        self.send_response(status)
        headers |= {"Content-Type": "text/plain", "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _make_token(self) -> tuple[bytes, dict[str, str]]:
        if self.path.rstrip("/") != "/latest/api/token":
            raise Answer(HTTPStatus.NOT_FOUND)
        if "X-Forwarded-For" in self.headers:
            raise Answer(HTTPStatus.FORBIDDEN)
        seconds = self.headers.get(_TTL_HEADER, "")
        if not seconds.isdigit() or not 1 <= int(seconds) <= _LONGEST_S:
            raise Answer(HTTPStatus.BAD_REQUEST)
        return self.server.new_token(int(seconds)).encode(), {_TTL_HEADER: seconds}

    def _read(self) -> tuple[bytes, dict[str, str]]:
        self.server.check_token(self.headers.get(_TOKEN_HEADER))
        return self.server.read(self.path.split("?")[0]), {}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Log nothing."""


class Metadata(ThreadingHTTPServer):
    """Server of a metadata file with EC2's `options`, base64 `user_data` and the tree `paths`."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], file: Path) -> None:
        self._file = file
        self._last: dict[str, Any] = {}
        self._tokens: dict[str, float] = {}
        super().__init__(address, _Handler)

    def _document(self) -> dict[str, Any]:
        try:
            self._last = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if not self._last:  # else the file is being replaced: answer from its previous content
                raise Answer(HTTPStatus.NOT_FOUND) from None
        return self._last

    def check_endpoint(self) -> None:
        if self._document()["options"]["HttpEndpoint"] == "disabled":
            raise Answer(HTTPStatus.FORBIDDEN)

    def new_token(self, seconds: int) -> str:
        token = secrets.token_urlsafe(40)
        self._tokens[token] = time.monotonic() + seconds
        return token

    def check_token(self, token: str | None) -> None:
        if token is None and self._document()["options"]["HttpTokens"] == "optional":
            return
        if token is None or self._tokens.get(token, 0.0) < time.monotonic():
            raise Answer(HTTPStatus.UNAUTHORIZED)

    def read(self, path: str) -> bytes:
        """Return the text of a leaf, or the list of names in a folder, with a slash after folders.

        A folder can override its list with an entry under the empty name, as `public-keys` does.
        """
        document = self._document()
        parts = [part for part in path.split("/") if part][1:]  # without the API version
        if parts == ["user-data"]:
            if not document["user_data"]:
                raise Answer(HTTPStatus.NOT_FOUND)
            return base64.b64decode(document["user_data"])
        found: Any = document["paths"]
        for part in parts:
            if not isinstance(found, dict) or part not in found:
                raise Answer(HTTPStatus.NOT_FOUND)
            found = found[part]
        if isinstance(found, dict):
            if "" in found:
                return str(found[""]).encode()
            names = [f"{name}/" if isinstance(below, dict) else name for name, below in sorted(found.items())]
            return "\n".join(names).encode()
        return str(found).encode()


def add_link_local() -> None:
    """Add the address of the metadata service to the loopback interface of this container.

    The mask covers all link-local addresses, so the instance cannot reach those of the host's network.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for request, address in ((_SET_ADDRESS, LINK_LOCAL), (_SET_MASK, "255.255.0.0")):
            fields = struct.pack("16sHH4s8x", b"lo:imds", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(any_socket, request, fields)


def main(arguments: list[str]) -> None:
    file, *listen = arguments
    if not listen:
        add_link_local()
    address = (listen[0], int(listen[1])) if listen else (LINK_LOCAL, 80)
    with Metadata(address, Path(file)) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
