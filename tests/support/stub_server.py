"""An HTTP server on loopback with answers chosen by the test."""

import http.server
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Asked:
    line: str
    authorization: str
    host: str
    proxy_authorization: str = ""
    body: str = ""


@dataclass(kw_only=True)
class Stub:
    """Stub HTTP server: `answer` returns status, headers and body; `asked` records the requests."""

    answer: Callable[[Asked], tuple[int, dict[str, str], bytes]]
    asked: list[Asked] = field(default_factory=list)
    host: str = ""


Serve = Callable[..., Stub]


@contextmanager
def serving(stub: Stub, context: ssl.SSLContext | None = None) -> Iterator[Stub]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = Asked(
                line=f"{self.command} {self.path}",
                authorization=self.headers.get("Authorization", ""),
                host=self.headers.get("Host", ""),
                proxy_authorization=self.headers.get("Proxy-Authorization", ""),
                body=self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(),
            )
            stub.asked.append(asked)
            status, headers, body = stub.answer(asked)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_PUT = do_CONNECT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    stub.host = f"127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def stub_servers() -> Iterator[Serve]:
    """Yield a function that starts stub servers; stop all of them at the end of the block."""
    with ExitStack() as stack:
        yield lambda stub, context=None: stack.enter_context(serving(stub, context))


@contextmanager
def dripping(start: bytes, *, each: bytes = b"x", every_s: float = 0.02) -> Iterator[str]:
    """Yield host:port of a server that sends `start`, and then `each` every `every_s` seconds without end."""
    stopping = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            try:
                self.wfile.write(start)
                while not stopping.wait(every_s):
                    self.wfile.write(each)
            except OSError:
                return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            stopping.set()
            server.shutdown()


class Pauses(threading.Event):
    """Replacement for the `cancelled` event of a run: `wait` returns at once and records its timeout."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.taken.append(timeout)
        return self.is_set()
