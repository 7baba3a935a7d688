"""A proxy socket for the real engine that injects an error or closes the connection at a chosen request."""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
_CHUNK = 65536


@dataclass
class Fault:
    """A fault for requests whose first line matches `pattern`; status 0 closes the connection."""

    pattern: str
    status: int = 0
    message: str = ""
    forever: bool = False  # close all connections from then on, like a stopped engine

    def answer(self) -> bytes:
        body = f'{{"message":"{self.message}"}}'.encode()
        head = f"HTTP/1.1 {self.status} Fault\r\nContent-Type: application/json\r\nConnection: close\r\n"
        return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def engine_with(fault: Fault, folder: Path) -> Iterator[str]:
    """Serve the engine through a proxy that injects this fault; yield the URL of the proxy."""
    path = folder / "engine.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(64)
    proxy = _Proxy(server, fault)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield f"unix://{path}"
    finally:
        proxy.stop()
        thread.join(10)


class _Proxy:
    def __init__(self, server: socket.socket, fault: Fault) -> None:
        self._server = server
        self._fault = fault
        self._gone = False
        self._open: set[socket.socket] = set()

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve_connection, args=(client,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._hang_up()

    def _hang_up(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve_connection(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine, suppress(OSError):
            self._open |= {client, engine}
            head = _read_head(client)
            if self._gone:
                return
            line = head.split(b"\r\n", 1)[0].decode()
            if re.search(self._fault.pattern, line):
                if self._fault.forever:
                    self._gone = True
                    self._hang_up()
                if self._fault.status:
                    client.sendall(self._fault.answer())
                return
            engine.connect(ENGINE)
            # One request per connection, so that the pattern is tested on every request.
            engine.sendall(
                re.sub(rb"\r\nConnection: [^\r]*", b"", head, count=1).replace(
                    b"\r\n", b"\r\nConnection: close\r\n", 1
                )
            )
            back = threading.Thread(target=_copy, args=(engine, client), daemon=True)
            back.start()
            _copy(client, engine)
            back.join()
            self._open -= {client, engine}


def _read_head(client: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = client.recv(_CHUNK)
        if not chunk:
            raise ConnectionError
        head += chunk
    return head


def _copy(source: socket.socket, target: socket.socket) -> None:
    copy: Callable[[], bytes] = lambda: source.recv(_CHUNK)  # noqa: E731
    with suppress(OSError):
        for chunk in iter(copy, b""):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
