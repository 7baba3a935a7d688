"""Attacks of a build container on the network and resources of its host."""

import hashlib
import io
import json
import socket
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.adapters.ansible.playbook import ContainerSetup
from builder.adapters.container import workload
from builder.adapters.container.failed import FailedContainers
from builder.adapters.container.maker import LayerMaker
from builder.adapters.engine.client import Engine
from builder.adapters.engine.network import Forwarder, open_network
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.adapters.upstream.mirror import Mirror
from builder.dockerfile import labelled
from builder.errors import BuildError
from builder.events import Stream
from builder.marks import RUN_LABEL

BODY = bytes(range(256)) * 80_000  # 20 MB

# Python program that prints as JSON which servers the container reaches.
PROBE = """
import hashlib, json, socket, sys, threading, urllib.request

def outcome(address, port):
    try:
        socket.create_connection((address, port), timeout=5).close()
        return "connected"
    except OSError as error:
        return type(error).__name__

def source(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((address, 80))
        return route.getsockname()[0]

def fetch():
    with urllib.request.urlopen(f"http://localhost:{mirror}/file", timeout=60) as answer:
        digests.append(hashlib.sha256(answer.read()).hexdigest())

def half_closed():
    with socket.create_connection(("127.0.0.1", mirror), timeout=20) as connection:
        connection.sendall(b"GET /small HTTP/1.0\\r\\n\\r\\n")
        connection.shutdown(socket.SHUT_WR)
        text = b""
        while data := connection.recv(4096):
            text += data
    return text.rpartition(b"\\r\\n\\r\\n")[2].decode()

mirror, other = int(sys.argv[1]), int(sys.argv[2])
digests = []
threads = [threading.Thread(target=fetch) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({
    "digests": digests,
    "half_closed": half_closed(),
    "other": outcome("127.0.0.1", other),
    "metadata": [source(address) for address in ("169.254.169.254", "169.254.170.2", "169.254.1.1")],
    "imds": outcome("169.254.169.254", 80),
    "external": source("192.0.2.1"),
    "status": open("/proc/self/status").read(),
}))
"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"small" if self.path == "/small" else BODY
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Ports of two servers on loopback: the mirror of the site, and a service that the site does not name."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Handler) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield servers[0].server_port, servers[1].server_port
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as opened:
        yield opened


@pytest.mark.engine
def test_a_build_container_reaches_the_mirror_and_nothing_else_of_the_host(
    run: Run, tmp_path: Path, ports: tuple[int, int], python_image: str
) -> None:
    mirror, other = ports
    engine, site = Engine(), Mirror(pip_index=f"http://localhost:{mirror}/simple")
    maker = LayerMaker(
        engine=engine,
        run=run,
        root=tmp_path,
        events=Stream(),
        jobs=1,
        mirror=lambda _: site,
        cache=None,
        last_layers=lambda _: {},
    )
    setup = ContainerSetup(
        command=("python3", "-I", "-c", PROBE, str(mirror), str(other)),
        mounts=(),
        tmpfs={},
        settings=tmp_path,
        keep_packages=lambda: None,
    )
    lines: list[str] = []
    network = maker._network("hello", python_image, site).result().mode
    assert maker._network("hello", python_image, site).result().mode == network
    with maker._container(python_image, setup, network) as build:
        host = (engine.inspect_container(build) or {})["HostConfig"]
        keeper = (engine.inspect_container(network.partition(":")[2]) or {})["HostConfig"]
        code = engine.run_to_end(build, lines.append)
    maker._close_network("hello")
    maker.close()
    assert code == 0, lines
    assert engine.containers(f"{RUN_LABEL}={run.name}") == []
    found = json.loads(lines[-1])
    assert found["digests"] == [hashlib.sha256(BODY).hexdigest()] * 8
    assert found["half_closed"] == "small"
    assert found["other"] == "ConnectionRefusedError", "a loopback service of the host is reachable"
    assert all(address.startswith("169.254.") for address in found["metadata"]), "link-local is routed"
    assert found["imds"] == "ConnectionRefusedError"
    assert not found["external"].startswith(("127.", "169.254.")), "the bridge still leads outside"

    assert (host["NetworkMode"], keeper["NetworkMode"]) == (network, "bridge")
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert 0 < host["PidsLimit"] <= 4096
    assert 0 < host["Memory"] < engine.info()["MemTotal"]
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines())
    held = int(status["CapBnd"], 16)
    assert [bit for bit in (12, 13, 21) if held >> bit & 1] == [], "NET_ADMIN, NET_RAW or SYS_ADMIN"


@pytest.mark.engine
def test_a_build_network_that_cannot_listen_fails_and_leaves_nothing(run: Run, python_image: str) -> None:
    engine, labels = Engine(), {"factory-test": run.name}
    with pytest.raises(BuildError, match="the network of a build container was not ready") as caught:
        open_network(engine, python_image, [("192.0.2.1", 80)], folder=run.socket_dir, labels=labels)
    assert "Cannot assign requested address" in caught.value.details
    assert engine.containers(f"factory-test={run.name}") == []
    assert list(run.socket_dir.iterdir()) == []


def test_only_connections_to_named_servers_are_forwarded(ports: tuple[int, int]) -> None:
    mirror, other = ports
    with tempfile.TemporaryDirectory() as folder:
        forwarder = Forwarder(Path(folder) / "socket", [("127.0.0.1", mirror)])
        try:
            answers = []
            for name in (f"127.0.0.1 {mirror}", f"127.0.0.1 {other}", f"localhost {mirror}", "x" * 100_000):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(forwarder.path))
                    client.sendall(f"{name}\n".encode())
                    answers.append(_answer(client))
            assert answers == [b"small", b"", b"", b""]
        finally:
            forwarder.close()


def _answer(client: socket.socket) -> bytes:
    text = b""
    try:
        client.sendall(b"GET /small HTTP/1.0\r\n\r\n")
        while data := client.recv(4096):
            text += data
    except OSError:
        return text
    return text.rpartition(b"\r\n\r\n")[2]


@pytest.mark.engine
def test_a_workload_is_built_without_network_and_with_limits(shell_image: str) -> None:
    files = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes /proc/net/dev"
    # The limit on the number of processes is set while the container starts.
    read = "n=$(cat $PIDS 2>/dev/null)"
    wait = f"i=0; until [ $i = 100 ] || [ ${{n:-max}} != max ]; do i=$((i+1)); sleep 0.1; {read}; done"
    text = f"""ARG PARENT
FROM $PARENT
ENV PIDS="/sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max"
SHELL ["sh", "-c"]
RUN {wait}; echo processes: $n; cat {files} || true
"""
    dockerfile = labelled(text, RUN_LABEL, "x")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile.text)
        tar.addfile(entry, io.BytesIO(dockerfile.text.encode()))
    content.seek(0)
    context = workload.Context(tar=content, dockerfile=dockerfile)
    engine, lines = Engine(), list[str]()
    plan: Any = SimpleNamespace(target=SimpleNamespace(workload="x"))
    labels = {RUN_LABEL: "x"}
    run: Any = None  # not used, as nothing is kept
    failed = FailedContainers(engine, run, keep=False)
    image = workload.build(
        engine, context, plan, parent=shell_image, labels=labels, say=lines.append, failed=failed
    )
    engine.remove_image(image)
    (limit,) = (int(line) for line in lines if line.strip().isdigit())
    assert limit < engine.info()["MemTotal"]
    assert "processes: 4096" in lines
    assert not any("eth0" in line for line in lines)
