"""Answer requests of OpenAI's API with two servers: one fills the prompt's KV cache, one generates tokens.

Standard library only. The prefill server gets the request with a limit of one token and returns where its
KV cache is; the decode server gets the request with this location and streams the answer.
"""

import argparse
import itertools
import json
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATHS = ("/v1/completions", "/v1/chat/completions")
TIMEOUT_S = 600
_REMOTE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def for_prefill(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request for the prefill server, which only fills the KV cache."""
    of_answer = ("stream_options", "max_completion_tokens")
    plain = {key: value for key, value in request.items() if key not in of_answer}
    return {**plain, "max_tokens": 1, "stream": False, "kv_transfer_params": dict(_REMOTE)}


def for_decode(request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return the request for the decode server, with the KV cache's location from the prefill answer."""
    return {**request, "kv_transfer_params": answer.get("kv_transfer_params") or {}}


class Router(ThreadingHTTPServer):
    """Sends each request to the next pair of a prefill and a decode server."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], prefill: Sequence[str], decode: Sequence[str]) -> None:
        super().__init__(address, Handler)
        self._pairs = zip(itertools.cycle(prefill), itertools.cycle(decode), strict=False)

    def next_pair(self) -> tuple[str, str]:
        return next(self._pairs)


class Handler(BaseHTTPRequestHandler):
    server: Router

    def do_GET(self) -> None:
        self._send(200 if self.path == "/health" else 404, b"", "text/plain")

    def do_POST(self) -> None:
        if self.path not in PATHS:
            self._send(404, b'{"error": "no such path"}')
            return
        try:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError:
            self._send(400, b'{"error": "the body is not JSON"}')
            return
        prefill, decode = self.server.next_pair()
        name = str(uuid.uuid4())
        try:
            with post(prefill + self.path, for_prefill(request), name) as filled:
                answer = json.loads(filled.read())
            with post(decode + self.path, for_decode(request, answer), name) as decoded:
                self._stream(decoded)
        except urllib.error.HTTPError as error:
            self._send(error.code, error.read())
        except urllib.error.URLError as error:
            self._send(502, json.dumps({"error": f"a server does not answer: {error.reason}"}).encode())

    def _send(self, code: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: Any) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Connection", "close")
        self.end_headers()
        for part in parts(answer):
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name of the base class)
        """Print nothing: the servers log requests."""


def parts(answer: Any) -> Iterator[bytes]:
    """Yield the body of an answer as it arrives."""
    while part := answer.read1(1 << 16):
        yield part


def post(url: str, body: dict[str, Any], name: str) -> Any:
    headers = {"Content-Type": "application/json", "X-Request-Id": name}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="route.py", description=__doc__)
    for role in ("prefill", "decode"):
        parser.add_argument(
            f"--{role}", action="append", required=True, metavar="URL", help="may be repeated"
        )
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="port of the API (default: 8080)")
    options = parser.parse_args(argv)
    with Router(("", options.port), options.prefill, options.decode) as router:
        router.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
