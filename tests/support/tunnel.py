"""A proxy on loopback that accepts CONNECT for any host and forwards all connections to a single server."""

import selectors
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Tunnel:
    """The running proxy, which records requested host:port pairs and Proxy-Authorization headers."""

    url: str
    asked: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)


@contextmanager
def tunnel_to(host: str) -> Iterator[Tunnel]:
    address, _, port = host.rpartition(":")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            tunnel.asked.append(self.rfile.readline().decode().split(" ")[1])
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(": ")
                if name.lower() == "proxy-authorization":
                    tunnel.logins.append(value)
            with socket.create_connection((address, int(port)), timeout=10) as server:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _relay(self.connection, server)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        tunnel = Tunnel(url=f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield tunnel
        finally:
            server.shutdown()


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Copy bytes in both directions until either side closes its connection."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                try:
                    data = key.fileobj.recv(1 << 16)
                    key.data.sendall(data)
                except OSError:
                    return
                if not data:
                    return
