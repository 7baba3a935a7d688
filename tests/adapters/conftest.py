"""Fixtures of adapter tests: a rehearsed AWS account without machines, a certificate, stub servers."""

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.adapters.ansible import runtime
from builder.adapters.aws import account
from builder.adapters.engine.client import Engine
from builder.rehearsal.proxy import Proxy
from tests.support.rehearsal import Clients, FakeHosts, RehearsedAccount, served
from tests.support.rehearsed_account import AmiAccount
from tests.support.stub_server import Serve, stub_servers


# The fixture is not session-scoped, because a served account patches moto for all tests of this process.
@pytest.fixture(scope="module")
def rehearsed_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsedAccount]:
    with served(tmp_path_factory.mktemp("rehearsal")) as account:
        yield account


@pytest.fixture
def hosts(rehearsed_account: RehearsedAccount) -> FakeHosts:
    """The fake hosts of the rehearsed account, with an empty list of recorded requests."""
    rehearsed_account.hosts.asked.clear()
    rehearsed_account.hosts.failing = None
    return rehearsed_account.hosts


@pytest.fixture
def aws(rehearsed_account: RehearsedAccount, hosts: FakeHosts) -> Clients:
    return Clients(rehearsed_account.endpoint)


@pytest.fixture
def proxy(rehearsed_account: RehearsedAccount) -> Iterator[Proxy]:
    """Proxy that authorizes and records the calls to the rehearsed account, and can inject faults."""
    from builder.rehearsal.ec2.backends import authorize

    with Proxy(rehearsed_account.endpoint, gate=rehearsed_account.gate, authorize=authorize) as started:
        yield started


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable retries of boto3, because a killed process does not retry."""
    monkeypatch.setitem(account.RETRIES, "total_max_attempts", 1)


@pytest.fixture
def ami_account(aws: Clients, proxy: Proxy, tmp_path: Path) -> AmiAccount:
    return AmiAccount.open(aws, proxy, tmp_path)


@pytest.fixture
def packer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the fake Packer; its folder is on PATH."""
    program = tmp_path / "bin" / "packer"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(runtime, "folder_of", lambda *_, **__: tmp_path)
    return program


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder with mode 0700, for SSH keys."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("capability absent: no openssl program to make a certificate with")
    path = tmp_path / "certificate.pem"
    subject = [
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:registry.test,DNS:*.us-east-1.amazonaws.com",
    ]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*argv, "-keyout", str(path), "-out", str(tmp_path / "c")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    path.write_text(path.read_text() + (tmp_path / "c").read_text())
    return path


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that starts a stub server on loopback; all servers stop when the test ends."""
    with stub_servers() as start:
        yield start


@pytest.fixture
def shell_image(tmp_path: Path) -> Iterator[str]:
    """An image that contains only a shell of this host."""
    with _imported(tmp_path, ("/bin/sh", "sleep", "cat", "mkdir")) as image:
        yield image


@pytest.fixture
def python_image(tmp_path: Path) -> Iterator[str]:
    """An image that contains only this host's Python."""
    argv = ["/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]
    library = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    with _imported(tmp_path, ("/usr/bin/python3",), library) as image:
        yield image


@contextmanager
def _imported(folder: Path, programs: Sequence[str], *paths: str) -> Iterator[str]:
    """Import programs of this host, their libraries, and other paths into the engine as an image."""
    files = [str(shutil.which(name)) for name in programs]
    listed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True).stdout
    files += [*sorted(set(re.findall(r"(?:=> |^\t)(/\S+)", listed, re.MULTILINE))), *paths]
    tar = folder / "root.tar"
    options = ["--exclude=dist-packages", "--exclude=__pycache__", "--exclude=test", "--ignore-failed-read"]
    words = ["tar", *options, "-chf", str(tar), "-C", "/", *(name.lstrip("/") for name in files)]
    subprocess.run(words, check=True, capture_output=True)
    engine, tag = Engine(), uuid.uuid4().hex
    engine.import_image(tar, repository="factory-test", tag=tag, changes=[])
    yield f"factory-test:{tag}"
    engine.remove_image(f"factory-test:{tag}")
