"""Client of the engine: all forms of DOCKER_HOST, errors, and listing layers without the SDK."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from builder.adapters.engine.client import LAYERS, Bind, Engine
from builder.errors import BuildError, IntegrityError, MissingError
from builder.wait import until
from tests.support.engine_proxy import ENGINE, Fault, engine_with

pytestmark = pytest.mark.engine

LABEL = "factory.test-engine"


class Relay:
    """TCP relay to the engine's Unix socket, with TLS if it has a context."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Relay":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as engine:
            downstream = self._context.wrap_socket(client, server_side=True) if self._context else client
            engine.connect(ENGINE)
            back = threading.Thread(target=_copy, args=(engine, downstream), daemon=True)
            back.start()
            _copy(downstream, engine)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


def certificates(folder: Path) -> Path:
    """Write ca.pem, and a cert.pem with key.pem for both the server and its clients."""
    folder.mkdir()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("test CA", "test engine")
    ]
    now = datetime.datetime.now(datetime.UTC)
    for file, subject, key, is_ca in (("ca", names[0], keys[0], True), ("cert", names[1], keys[1], False)):
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False
            )
        )
        certificate = made.sign(keys[0], hashes.SHA256())
        (folder / f"{file}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder


def tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


Open = Callable[[pytest.MonkeyPatch, Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def by_default(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    yield


@contextlib.contextmanager
def by_unix(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Set DOCKER_HOST to a Unix socket, and set TLS variables, which must be ignored for a socket."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{ENGINE}")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(folder / "none"))
    yield


@contextlib.contextmanager
def by_tcp(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    with Relay() as relay:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://{relay.address}")
        yield


@contextlib.contextmanager
def by_tls(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    found = certificates(folder / "certificates")
    with Relay(tls(found)) as relay:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://{relay.address}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(found))
        yield


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """Import an empty layer into the engine and yield its key."""
    key, tar = uuid.uuid4().hex, tmp_path / "root.tar"
    subprocess.run(["tar", "-cf", str(tar), "-C", str(tmp_path), "--files-from", "/dev/null"], check=True)
    engine = Engine()
    engine.import_image(tar, repository=LAYERS, tag=key, changes=['CMD ["true"]'])
    yield key
    engine.remove_image(f"{LAYERS}:{key}")


@pytest.mark.parametrize("open_engine", [by_default, by_unix, by_tcp, by_tls])
def test_all_requests_work_with_every_form_of_docker_host(
    open_engine: Open, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    # The CA bundle and the proxies of the environment must not be used for the engine.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    reference = f"{LAYERS}:{image}"
    with open_engine(monkeypatch, tmp_path):
        engine = Engine()
        found = engine.layers()[image]
        assert engine.version()["ApiVersion"]
        assert engine.layers()[image] == found, "same result with and without the SDK"
        container = engine.create(reference, command=["true"], network="none", labels={LABEL: image})
        try:
            assert [record["Id"] for record in engine.containers(f"{LABEL}={image}")] == [container]
            stored = engine.commit(
                container,
                parent_config={"Env": ["PATH=/bin"]},
                labels={LABEL: image},
                environment={"NAME": "a,b"},
            )
            config = (engine.inspect_image(stored) or {})["Config"]
            assert set(config["Env"]) == {"PATH=/bin", "NAME=a,b"}
            assert [record.id for record in engine.labelled(f"{LABEL}={image}")] == [stored]
        finally:
            engine.remove_container(container)
        assert engine.containers(f"{LABEL}={image}") == []
        engine.remove_image(stored)
        with engine.export(reference) as stream:
            assert stream.read(512)


def test_engine_with_tls_refuses_clients_without_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with by_tls(monkeypatch, tmp_path):
        monkeypatch.delenv("DOCKER_TLS_VERIFY")
        monkeypatch.delenv("DOCKER_CERT_PATH")
        monkeypatch.setenv("HOME", str(tmp_path))
        for ask in (Engine().layers, Engine().version):
            with pytest.raises((MissingError, BuildError)):
                ask()


ABSENT = {
    "no socket": (
        "unix:///nowhere.sock",
        "no answer from the engine at unix:///nowhere.sock",
        "start the engine",
    ),
    "no listener": ("tcp://127.0.0.1:1", "Connection refused", "start the engine"),
    "unknown scheme": ("carrier://pigeon", "DOCKER_HOST=carrier://pigeon", "to unix://PATH or tcp://"),
    "ssh": ("ssh://user@host", "DOCKER_HOST=ssh://user@host", "forward the engine's socket with ssh -L"),
}


@pytest.mark.parametrize(("url", "message", "hint"), ABSENT.values(), ids=ABSENT)
def test_unreachable_engine_gives_the_same_error_for_all_requests(url: str, message: str, hint: str) -> None:
    for ask in (Engine(url).layers, Engine(url).version, Engine(url).info):
        with pytest.raises(MissingError) as caught:
            ask()
        assert message in caught.value.message
        assert hint in caught.value.hint


def test_missing_certificates_give_a_hint_about_docker_cert_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(MissingError) as caught:
        Engine("tcp://127.0.0.1:1").layers()
    assert "DOCKER_CERT_PATH is the folder of ca.pem, cert.pem and key.pem" in caught.value.hint


def test_engine_that_does_not_answer_raises_missing_error(tmp_path: Path) -> None:
    for pattern in ("/images/json", "/version", "/info"):
        folder = tmp_path / pattern.strip("/").replace("/", "-")
        folder.mkdir()
        with engine_with(Fault(pattern, forever=True), folder) as url:
            engine = Engine(url)
            with pytest.raises(MissingError, match=f"no answer from the engine at {url}"):
                (engine.layers if "images" in pattern else engine.info)()


def test_errors_contain_the_message_of_the_engine(tmp_path: Path) -> None:
    fault = Fault(r"/images/json|/info", status=500, message="storage is broken")
    with engine_with(fault, tmp_path) as url:
        for ask in (Engine(url).layers, Engine(url).info):
            with pytest.raises(BuildError) as caught:
                ask()
            assert "storage is broken" in caught.value.message + caught.value.details


def test_damaged_storage_of_the_engine_ends_with_exit_code_7(tmp_path: Path) -> None:
    fault = Fault(r"/images/\S*get", status=500, message="file integrity checksum failed for etc/passwd")
    with (
        engine_with(fault, tmp_path) as url,
        pytest.raises(IntegrityError, match="the engine's storage is damaged") as caught,
        Engine(url).export("some:image") as stream,
    ):
        stream.read()
    assert caught.value.exit_code == 7
    assert "builder clean --all --yes" in caught.value.hint


def test_removing_or_inspecting_missing_objects_is_no_error(image: str) -> None:
    engine = Engine()
    engine.remove_container("no-such-container")
    engine.remove_image("no-such-image:1")
    assert engine.inspect_image("no-such-image:1") is None
    assert engine.inspect_container("no-such-container") is None
    with pytest.raises(BuildError, match="engine error while tagging no-such-image"):
        engine.tag("no-such-image:1", "other", "1")


def test_lists_layers_and_tags_images_without_importing_the_sdk(image: str) -> None:
    tag = f"{image}:tagged"
    code = (
        "import sys\n"
        "from builder.adapters.engine.client import Engine\n"
        "from builder.errors import BuildError\n"
        "engine = Engine()\n"
        f"engine.tag('{LAYERS}:{image}', '{image}', 'tagged')\n"
        f"assert '{tag}' in engine.layers('{tag}')['{image}'].tags\n"
        f"assert '{tag}' not in engine.layers()['{image}'].tags\n"
        "try:\n"
        "    engine.tag('no-such-image:1', 'other', '1')\n"
        "except BuildError as error:\n"
        "    assert 'refused to tag no-such-image:1' in error.message, error\n"
        "print(sorted({'docker', 'requests', 'urllib3', 'http.client', 'ssl'} & set(sys.modules)))\n"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    finally:
        Engine().remove_image(tag)
    assert done.stdout.strip() == "[]", done.stderr


LOAD_AT_ONCE = """
import sys, threading
from builder.adapters.engine.client import Bind, Engine
from builder.errors import FactoryError

sys.setswitchinterval(1e-6)
barrier, failures = threading.Barrier(3), []

def begin(act):
    barrier.wait()
    try:
        act(Engine("unix:///none.sock"))
    except FactoryError:
        pass
    except BaseException as error:
        failures.append(repr(error))

acts = (
    lambda engine: engine.connect(),
    lambda engine: engine.inspect_image("x"),
    lambda engine: engine.errors("nothing").__enter__(),
)
threads = [threading.Thread(target=begin, args=(act,)) for act in acts]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failures)
"""


def test_threads_can_load_the_sdk_concurrently() -> None:
    """Modules of the SDK import each other, so a thread could see a partly loaded module."""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", LOAD_AT_ONCE], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.strip() == "[]"


def test_ends_a_program_that_takes_too_long(image: str) -> None:
    """The container has the programs of this host, because its image is empty."""
    engine = Engine()
    mounts = [Bind(source=str(Path(name).resolve()), target=name) for name in ("/usr", "/lib", "/lib64")]
    container = engine.create(
        f"{LAYERS}:{image}",
        command=["/usr/bin/sh", "-c", "echo begun; exec /usr/bin/sleep 600"],
        network="none",
        labels={LABEL: image},
        mounts=mounts,
    )
    lines: list[str] = []
    try:
        with pytest.raises(BuildError, match="timed out after 2 s"):
            engine.run_to_end(container, lines.append, timeout_s=2)
        assert lines == ["begun"]
        engine.start(container)
        with pytest.raises(BuildError, match="timed out after 1 s"):
            engine.execute(container, ["/usr/bin/sleep", "600"], lines.append, timeout_s=1)

        def has_ended() -> bool:
            record = engine.inspect_container(container)
            return record is not None and record["State"]["Running"] is False

        assert until(has_ended, timeout_s=10, every_s=0.1)
    finally:
        engine.remove_container(container)
