"""The network of a build container: a bridge without link-local addresses and without the host's loopback.

Servers of the site that listen on loopback, such as mirrors and proxies, are forwarded: `keeper` listens on
their addresses in the container's network and passes each connection to the builder through a Unix socket.
The builder connects to these servers only.
"""

import secrets
import socket
import socketserver
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.adapters.engine import keeper
from builder.adapters.engine.client import Bind, Engine
from builder.adapters.engine.limits import bounds
from builder.errors import BuildError
from builder.wait import until

Server = tuple[str, int]  # host and port
_SOCKET = "/forward.sock"
_START_S, _CONNECT_S = 60.0, 30.0
_LONGEST_NAME = 300


class BuildNetwork:
    """A running keeper, whose network the build container joins as network mode `mode`."""

    def __init__(self, engine: Engine, container: str, forwarder: "Forwarder | None") -> None:
        self.container = container
        self._engine = engine
        self._forwarder = forwarder

    @property
    def mode(self) -> str:
        return f"container:{self.container}"

    def close(self) -> None:
        """Remove the keeper and end the connections to the servers."""
        try:
            self._engine.remove_container(self.container)
        finally:
            if self._forwarder:
                self._forwarder.close()


def open_network(
    engine: Engine,
    image: str,
    servers: Collection[Server],
    *,
    folder: Path,
    labels: Mapping[str, str],
    ports: Mapping[int | str, Any] | None = None,
    **options: Any,
) -> BuildNetwork:
    """Start a keeper from an image with Python; the caller closes the network.

    `servers` are on loopback. `folder` has a short path for the socket. `ports` and `options` belong to the
    keeper's container; its limits hold for containers in its control group too.
    """
    forwarder = Forwarder(folder / secrets.token_hex(6), servers) if servers else None
    script = Path(keeper.__file__).read_text(encoding="utf-8")
    words = [
        word for host, port in _listening(servers) for word in (_address(host), str(port), _name(host, port))
    ]
    try:
        container = engine.create(
            image,
            command=("python3", "-I", "-c", script, _SOCKET, *words),
            network="bridge",
            labels=labels,
            mounts=[Bind(source=str(forwarder.path), target=_SOCKET)] if forwarder else (),
            ports=ports,
            cap_drop=["ALL"],
            cap_add=["NET_ADMIN", "NET_BIND_SERVICE"],
            security_opt=["no-new-privileges"],
            **bounds(engine),
            **options,
        )
    except BaseException:
        if forwarder:
            forwarder.close()
        raise
    network = BuildNetwork(engine, container, forwarder)
    try:
        engine.start(container)
        _wait(engine, container)
    except BaseException:
        network.close()
        raise
    return network


def _wait(engine: Engine, container: str) -> None:
    output = ""

    def is_ready_or_ended() -> bool:
        nonlocal output
        has_ended = not _runs(engine, container)  # asked first, so that the output is complete
        output = engine.output(container, lines=20)
        return has_ended or _is_ready(output)

    until(is_ready_or_ended, timeout_s=_START_S, every_s=0.03)
    if not _is_ready(output):
        raise BuildError(
            "the network of a build container was not ready",
            hint="give each mirror and proxy on loopback in site.toml its own port on 127.0.0.1",
            details=output,
        )


def _is_ready(output: str) -> bool:
    return keeper.READY in output.splitlines()


def _runs(engine: Engine, container: str) -> bool:
    found = engine.inspect_container(container)
    return bool(found and found["State"]["Running"])


def _listening(servers: Collection[Server]) -> list[Server]:
    """Return one server for each address that a keeper listens on."""
    return list({(_address(host), port): (host, port) for host, port in servers}.values())


def _address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _name(host: str, port: int) -> str:
    return f"{host} {port}"


class Forwarder(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Unix socket server that connects each client to the server that the client's request names."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path, servers: Collection[Server]) -> None:
        self.path = path
        self.servers = {_name(host, port): (host, port) for host, port in servers}
        self.connections: set[socket.socket] = set()
        super().__init__(str(path), _Connection)
        path.chmod(0o666)  # for a keeper without privileges; the folder is private
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.path.unlink(missing_ok=True)


class _Connection(socketserver.StreamRequestHandler):
    server: Forwarder
    rbufsize = 0  # the bytes after the first line belong to the server

    def handle(self) -> None:
        name = self.rfile.readline(_LONGEST_NAME).decode(errors="replace").strip()
        found = self.server.servers.get(name)
        if found is None:
            return
        with suppress(OSError), socket.create_connection(found, timeout=_CONNECT_S) as connection:
            connection.settimeout(None)
            self.server.connections |= {self.request, connection}
            try:
                keeper.relay(self.request, connection)
            finally:
                self.server.connections -= {self.request, connection}
