"""A small OCI registry on loopback with the behaviour of ECR and fault injection.

Stores blobs in a folder by digest; they survive a restart. Like ECR, it can refuse pushes to unknown
repositories and keep tags immutable. Used by rehearsals and tests; `adapters/registry/local.py` starts the
registry for images that users publish locally.
"""

import base64
import hmac
import ipaddress
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from builder.errors import UsageError
from builder.rehearsal.registry.storage import NAME, Refused, Storage, checked_digest, unknown

CHUNK = 1 << 20
MANIFEST_LIMIT = 4 << 20
_IDLE_S = 60.0
_PAGE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Faults to inject into a request, in the order of the fields."""

    delay_s: float = 0.0
    close_after_bytes: int | None = None  # close the connection after so many bytes of the request's body
    status: int = 0  # answer with this status instead of the real answer
    code: str = "UNAVAILABLE"
    headers: Mapping[str, str] = field(default_factory=dict)  # override headers of the answer
    truncate_to: int | None = None  # close the connection after so many bytes of the answer's body


Faults = Callable[[str, str], Fault | None]


class _Cut(Exception):
    """Raised to close the connection without an answer."""


class _Handler(BaseHTTPRequestHandler):
    """Handler of one connection; methods raise Refused, which `_refuse` turns into an error response."""

    protocol_version = "HTTP/1.1"
    server_version = "rehearsal"
    timeout = _IDLE_S
    disable_nagle_algorithm = True
    server: "_Server"

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self._query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self._chunks = self._body()
        self._fault = self.server.faults(self.command, url.path) or Fault()
        try:
            self._inject_fault()
            self._authorize()
            self._route(unquote(url.path))
            self._drain()
        except Refused as refused:
            self._refuse(refused)
        except (_Cut, OSError, ValueError):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 (the base class looks for these)

    def _route(self, path: str) -> None:
        for pattern, verbs in _ROUTES:
            if match := pattern.fullmatch(path):
                if verb := verbs.get(self.command):
                    verb(self, **match.groupdict())
                    return
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", f"no {self.command} here")
        raise unknown("NAME_UNKNOWN", path)

    def _inject_fault(self) -> None:
        fault = self._fault
        if fault.delay_s:
            self.server.stopping.wait(fault.delay_s)
        if fault.close_after_bytes is not None:
            taken = 0
            while taken < fault.close_after_bytes:
                taken += len(next(self._chunks, b"")) or fault.close_after_bytes
            raise _Cut
        if fault.status:
            raise Refused(HTTPStatus(fault.status), fault.code, "injected fault")

    def _authorize(self) -> None:
        expected = self.server.authorization
        if expected and not hmac.compare_digest(self.headers.get("Authorization", ""), expected):
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHORIZED",
                "authentication required",
                {"WWW-Authenticate": 'Basic realm="rehearsal"'},
            )

    def _refuse(self, refused: Refused) -> None:
        error = {"code": refused.code, "message": refused.message}
        with suppress(OSError, ValueError):
            self._drain()
            self._answer(refused.status, json.dumps({"errors": [error]}).encode(), refused.headers)
            return
        self.close_connection = True

    def _drain(self) -> None:
        """Read the rest of the request's body: closing before its end would reset the connection."""
        for _ in self._chunks:
            pass

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(100).split(b";")[0], 16):
                yield from self._exactly(size)
                self.rfile.readline(3)
            while self.rfile.readline(CHUNK).strip():
                pass
        else:
            yield from self._exactly(int(self.headers.get("Content-Length", "0")))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size > 0:
            chunk = self.rfile.read(min(size, CHUNK))
            if not chunk:
                raise ConnectionError("the client closed the connection before the end of the body")
            size -= len(chunk)
            yield chunk

    def _answer(
        self, status: HTTPStatus, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        usual = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._head(status, {**usual, **(headers or {})})
        if self.command != "HEAD":
            limit = self._fault.truncate_to
            self.wfile.write(body[:limit])
            if limit is not None:
                raise _Cut

    def _head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        headers = {"Docker-Distribution-Api-Version": "registry/2.0", **headers, **self._fault.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Log nothing."""

    # Methods of the distribution specification.

    def _ping(self) -> None:
        self._answer(HTTPStatus.OK, b"{}")

    def _read_blob(self, name: str, digest: str) -> None:
        path = self.server.storage.blob(name, digest)
        with path.open("rb") as file:
            total = path.stat().st_size
            start, end = self._range(total)
            status = HTTPStatus.OK if (start, end) == (0, total) else HTTPStatus.PARTIAL_CONTENT
            headers = {
                "Content-Length": str(end - start),
                "Content-Type": "application/octet-stream",
                "Docker-Content-Digest": digest,
                "Accept-Ranges": "bytes",
            }
            if status == HTTPStatus.PARTIAL_CONTENT:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
            self._head(status, headers)
            if self.command != "HEAD":
                self._send_file(file, start, end)

    def _send_file(self, file: IO[bytes], start: int, end: int) -> None:
        limit = self._fault.truncate_to
        count = end - start if limit is None else min(limit, end - start)
        if count:
            self.connection.sendfile(file, start, count)
        if limit is not None:
            raise _Cut

    def _range(self, total: int) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match is None or match.groups() == ("", ""):
            return 0, total
        if match[1]:
            start, end = int(match[1]), min(int(match[2] or total), total - 1) + 1
        else:
            start, end = max(total - int(match[2]), 0), total
        if start >= end:
            raise Refused(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "RANGE_INVALID", f"the blob has {total} bytes"
            )
        return start, end

    def _remove_blob(self, name: str, digest: str) -> None:
        self.server.storage.remove_blob(name, digest)
        self._answer(HTTPStatus.ACCEPTED)

    def _begin_upload(self, name: str) -> None:
        storage = self.server.storage
        if "mount" in self._query and "from" in self._query:
            digest = checked_digest(self._query["mount"])
            if storage.mount(name, digest, source=self._query["from"]):
                self._created_blob(name, digest)
                return
        identifier = storage.begin_upload(name)
        if "digest" in self._query:
            storage.append(storage.upload(name, identifier), self._chunks)
            self._finish(name, identifier)
            return
        self._progress(HTTPStatus.ACCEPTED, name, identifier)

    def _append(self, name: str, upload: str) -> None:
        match = re.match(r"(?:bytes )?(\d+)-", self.headers.get("Content-Range", ""))
        session = self.server.storage.upload(name, upload)
        self.server.storage.append(session, self._chunks, start=int(match[1]) if match else None)
        self._progress(HTTPStatus.ACCEPTED, name, upload)

    def _finish_upload(self, name: str, upload: str) -> None:
        self.server.storage.append(self.server.storage.upload(name, upload), self._chunks)
        self._finish(name, upload)

    def _finish(self, name: str, identifier: str) -> None:
        digest = self._query.get("digest", "")
        self.server.storage.finish_upload(name, identifier, digest)
        self._created_blob(name, digest)

    def _created_blob(self, name: str, digest: str) -> None:
        headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        self._answer(HTTPStatus.CREATED, headers=headers)

    def _upload_status(self, name: str, upload: str) -> None:
        self._progress(HTTPStatus.NO_CONTENT, name, upload)

    def _cancel_upload(self, name: str, upload: str) -> None:
        self.server.storage.cancel_upload(name, upload)
        self._answer(HTTPStatus.NO_CONTENT)

    def _progress(self, status: HTTPStatus, name: str, identifier: str) -> None:
        last = max(self.server.storage.upload(name, identifier).size - 1, 0)
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{identifier}",
            "Range": f"0-{last}",
            "Docker-Upload-UUID": identifier,
        }
        self._answer(status, headers=headers)

    def _put_manifest(self, name: str, reference: str) -> None:
        content = bytearray()
        for chunk in self._chunks:
            content += chunk
            if len(content) > MANIFEST_LIMIT:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "MANIFEST_INVALID", "too large")
        media_type = self.headers.get("Content-Type", "").split(";")[0].strip()
        digest = self.server.storage.put_manifest(name, reference, bytes(content), media_type)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        self._answer(HTTPStatus.CREATED, headers=headers)

    def _read_manifest(self, name: str, reference: str) -> None:
        content, digest, media_type = self.server.storage.manifest(name, reference)
        self._answer(HTTPStatus.OK, content, {"Content-Type": media_type, "Docker-Content-Digest": digest})

    def _remove_manifest(self, name: str, reference: str) -> None:
        self.server.storage.remove_manifest(name, reference)
        self._answer(HTTPStatus.ACCEPTED)

    def _tags(self, name: str) -> None:
        self._page("tags", self.server.storage.tags(name), name=name)

    def _catalog(self) -> None:
        self._page("repositories", self.server.storage.repositories())

    def _page(self, key: str, entries: Sequence[str], **others: str) -> None:
        number = self._query.get("n", "")
        size = min(int(number), _PAGE) if number.isdigit() else _PAGE
        rest = [entry for entry in entries if entry > self._query.get("last", "")]
        page, headers = rest[:size], {}
        if page and len(rest) > size:
            query = urlencode({"n": size, "last": page[-1]})
            headers["Link"] = f'<{quote(urlsplit(self.path).path)}?{query}>; rel="next"'
        self._answer(HTTPStatus.OK, json.dumps({**others, key: page}).encode(), headers)


_Verbs = dict[str, Callable[..., None]]
_ROUTES: tuple[tuple[re.Pattern[str], _Verbs], ...] = (
    (re.compile(r"/v2/?"), {"GET": _Handler._ping, "HEAD": _Handler._ping}),
    (re.compile(r"/v2/_catalog"), {"GET": _Handler._catalog}),
    (re.compile(rf"/v2/{NAME}/tags/list"), {"GET": _Handler._tags}),
    (re.compile(rf"/v2/{NAME}/blobs/uploads/?"), {"POST": _Handler._begin_upload}),
    (
        re.compile(rf"/v2/{NAME}/blobs/uploads/(?P<upload>[0-9a-f]+)"),
        {
            "GET": _Handler._upload_status,
            "PATCH": _Handler._append,
            "PUT": _Handler._finish_upload,
            "DELETE": _Handler._cancel_upload,
        },
    ),
    (
        re.compile(rf"/v2/{NAME}/blobs/(?P<digest>[^/]+)"),
        {"GET": _Handler._read_blob, "HEAD": _Handler._read_blob, "DELETE": _Handler._remove_blob},
    ),
    (
        re.compile(rf"/v2/{NAME}/manifests/(?P<reference>[^/]+)"),
        {
            "GET": _Handler._read_manifest,
            "HEAD": _Handler._read_manifest,
            "PUT": _Handler._put_manifest,
            "DELETE": _Handler._remove_manifest,
        },
    ),
)


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    storage: Storage

    def __init__(self, address: tuple[str, int], faults: Faults, authorization: str) -> None:
        self.faults = faults
        self.authorization = authorization
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer.server_bind would look up the host's name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.stopping.set()
        super().server_close()
        for connection in list(self._open):  # ends the threads of keep-alive connections
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class LocalRegistry:
    """The registry server; `host` is the first part of its image references."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        login: tuple[str, str] | None = None,
        create_on_push: bool = True,
        immutable_tags: bool = False,
        faults: Faults = lambda _method, _path: None,
        storage: Callable[[Path], Storage] | None = None,
    ) -> None:
        if not ipaddress.ip_address(address).is_loopback:
            raise UsageError(
                f"the rehearsal's registry does not listen on {address}: only loopback is allowed",
                hint="choose an address in 127.0.0.0/8",
            )
        secret = base64.b64encode(":".join(login).encode()).decode() if login else ""
        try:
            self._server = _Server((address, port), faults, f"Basic {secret}" if login else "")
        except OSError as error:
            raise UsageError(
                f"the registry cannot listen on {address}:{port}: {error.strerror}",
                hint="choose another port, or 0 for any free port",
            ) from error
        # Open the folder only after binding the port, because opening it deletes unfinished uploads.
        self.storage = (
            storage(folder)
            if storage
            else Storage(folder, create_on_push=create_on_push, immutable_tags=immutable_tags)
        )
        self._server.storage = self.storage
        self.host = f"{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def create_repository(self, name: str) -> None:
        self.storage.create_repository(name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
