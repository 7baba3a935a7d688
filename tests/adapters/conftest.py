"""What tests of several adapters need: a rehearsed account without machines, a certificate."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rehearsal import Clients, FakeHosts, RehearsedAccount, served
from tests.support.stub_server import Serve, stub_servers


# Not for the whole session: while an account is served, moto is not itself for other tests of this process.
@pytest.fixture(scope="module")
def rehearsed_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsedAccount]:
    with served(tmp_path_factory.mktemp("rehearsal")) as account:
        yield account


@pytest.fixture
def hosts(rehearsed_account: RehearsedAccount) -> FakeHosts:
    """What was asked of the hosts, from now on."""
    rehearsed_account.hosts.asked.clear()
    rehearsed_account.hosts.failing = None
    return rehearsed_account.hosts


@pytest.fixture
def aws(rehearsed_account: RehearsedAccount, hosts: FakeHosts) -> Clients:
    return Clients(rehearsed_account.endpoint)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder for keys."""
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
    """Starts servers on loopback that answer as a test says."""
    with stub_servers() as start:
        yield start
