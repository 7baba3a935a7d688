"""The registry client: push and pull, tested against the rehearsal's registry and docker-registry."""

import io
import json
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from builder.adapters.engine.client import Engine
from builder.adapters.host.network import DIRECT
from builder.adapters.registry.api import Credentials
from builder.adapters.registry.blobs import BlobStore, LayerBlob, sha256
from builder.adapters.registry.client import MANIFEST, Blob, Registry, manifest, push
from builder.adapters.registry.local import PROGRAM, serving
from builder.adapters.registry.publisher import RegistryCache, RegistryPublisher
from builder.errors import FactoryError, IntegrityError, Interrupted, MissingError, PublishError
from builder.model import Artifact, Plan, Publication
from builder.rehearsal.registry.server import Fault, LocalRegistry
from tests.support.repository import Repository
from tests.support.stub_server import Asked, Pauses, Stub, stub_servers

CONFIG = b'{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
NO_DIGEST = f"sha256:{'0' * 64}"


def layer_of(content: bytes, store: BlobStore) -> LayerBlob:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    tar = stream.getvalue()
    return store.add(sha256(tar), io.BytesIO(tar))


@pytest.fixture
def layers(tmp_path: Path) -> tuple[LayerBlob, ...]:
    store = BlobStore(tmp_path / "store")
    return tuple(layer_of(content, store) for content in (b"one", bytes(range(256)) * 20_000, b"three"))


class Faults:
    """Recorder of requests to a registry; the first `times` that match `pattern` get the fault."""

    def __init__(self, pattern: str = "^$", fault: Fault | None = None, *, times: int = 1) -> None:
        self.asked: list[str] = []
        self._pattern = pattern
        self._fault = fault
        self._left = times
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.asked.append(f"{method} {path}")
            if self._left and re.search(self._pattern, self.asked[-1]):
                self._left -= 1
                return self._fault
        return None


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture(params=["ours", "docker-registry"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Registry]]:
    """A function that opens a client of the registry."""
    if request.param == "ours":
        with LocalRegistry(tmp_path / "registry") as ours:
            yield lambda: Registry(ours.host)
    elif not shutil.which(PROGRAM):
        pytest.skip("capability absent: no docker-registry program (Debian: apt install docker-registry)")
    else:
        with serving(tmp_path / "registry") as started:
            yield lambda: Registry(started.find(), credentials=started.credentials)


Connect = Callable[[], Registry]


def test_pushes_an_image_and_pulls_it_back(connect: Connect, layers: tuple[LayerBlob, ...]) -> None:
    with connect() as registry:
        registry.ping()
        publication = push(CONFIG, layers, registry=registry, repository="team/app", tags=("1", "latest"))
        sizes = len(CONFIG) + sum(layer.size_bytes for layer in layers)
        assert (publication.pushed_bytes, publication.reused_bytes) == (sizes, 0)
        assert publication.name == f"{registry.host}/team/app@{publication.digest}"
        assert publication.digest == sha256(manifest(CONFIG, layers))
        assert registry.tags("team/app") == ("1", "latest")
        for reference in ("1", "latest", publication.digest):
            assert registry.find_manifest("team/app", reference) == publication.digest
            found = registry.get_manifest("team/app", reference)
            assert found == (manifest(CONFIG, layers), publication.digest, MANIFEST)
        for layer in layers:
            assert registry.get_blob("team/app", layer.digest) == layer.path.read_bytes()


def test_returns_none_for_a_missing_image_and_blob(connect: Connect) -> None:
    with connect() as registry:
        assert registry.find_manifest("team/app", "cache-1") is None
        assert registry.get_manifest("team/app", NO_DIGEST) is None
        assert not registry.has_blob("team/app", NO_DIGEST)
        assert registry.tags("team/app") == ()


def test_second_push_sends_no_bytes(connect: Connect, layers: tuple[LayerBlob, ...]) -> None:
    with connect() as registry:
        first = push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        second = push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        third = push(CONFIG, layers, registry=registry, repository="app", tags=("1", "2"))
    assert first.digest == second.digest == third.digest
    assert (second.pushed_bytes, third.pushed_bytes) == (0, 0)
    assert second.reused_bytes == third.reused_bytes == first.pushed_bytes


def test_mounts_blobs_of_another_repository(connect: Connect, layers: tuple[LayerBlob, ...]) -> None:
    with connect() as registry:
        push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        other = push(
            CONFIG, layers, registry=registry, repository="other", tags=("1",), mount_from=("none", "app")
        )
    assert other.pushed_bytes == 0


def test_pushes_under_the_digest_without_a_tag(connect: Connect, layers: tuple[LayerBlob, ...]) -> None:
    with connect() as registry:
        publication = push(CONFIG, layers, registry=registry, repository="app", tags=())
        assert registry.find_manifest("app", publication.digest) == publication.digest


def test_refuses_and_deletes_a_layer_that_changed_on_disk(
    connect: Connect, layers: tuple[LayerBlob, ...]
) -> None:
    content = bytearray(layers[1].path.read_bytes())
    content[-1] ^= 1
    layers[1].path.write_bytes(content)
    with connect() as registry:
        with pytest.raises(IntegrityError) as caught:
            push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        assert registry.find_manifest("app", "1") is None
        assert not registry.has_blob("app", layers[1].digest)
    assert str(layers[1].path) in caught.value.message
    assert BlobStore(layers[1].path.parents[1]).find(layers[1].diff_id) is None


def test_reports_a_refusal_with_the_registrys_error_code(connect: Connect) -> None:
    content = json.dumps(json.loads(manifest(CONFIG, ()))).encode()
    with connect() as registry, pytest.raises(PublishError, match="MANIFEST_BLOB_UNKNOWN") as caught:
        registry.put_manifest("app", "1", content)
    assert caught.value.message.startswith(f"{registry.host}/app: manifest 1: ")
    assert "curl" in caught.value.hint


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., LocalRegistry]]:
    """A function that starts a registry with options such as faults or immutable tags."""
    started: list[LocalRegistry] = []

    def start(**options: object) -> LocalRegistry:
        registry = LocalRegistry(tmp_path / f"registry-{len(started)}", **options)  # type: ignore[arg-type]
        started.append(registry.__enter__())
        return registry

    yield start
    for registry in started:
        registry.__exit__(None, None, None)


Serve = Callable[..., LocalRegistry]


@pytest.fixture
def stubs() -> Iterator[Callable[..., Stub]]:
    with stub_servers() as start:
        yield start


def test_second_push_sends_one_request_per_tag(serve: Serve, layers: tuple[LayerBlob, ...]) -> None:
    faults = Faults()
    with Registry(serve(faults=faults).host) as registry:
        push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        faults.asked.clear()
        push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
    assert faults.asked == ["GET /v2/app/manifests/1"]


TRANSIENT_FAULTS = {
    "500 on an upload": ("PUT .*/blobs/uploads/", Fault(status=500)),
    "503 at the start of an upload": ("POST .*/blobs/uploads/", Fault(status=503)),
    "closed during an upload": ("PUT .*/blobs/uploads/", Fault(close_after_bytes=100)),
    "closed before a response": ("POST .*/blobs/uploads/", Fault(close_after_bytes=0)),
    "502 on the manifest": ("PUT .*/manifests/", Fault(status=502)),
    "truncated response": ("GET /v2/app/tags/list", Fault(truncate_to=3)),
}


@pytest.mark.parametrize(("pattern", "fault"), TRANSIENT_FAULTS.values(), ids=list(TRANSIENT_FAULTS))
def test_retries_and_reports_a_transient_fault(
    serve: Serve, layers: tuple[LayerBlob, ...], pauses: Pauses, pattern: str, fault: Fault
) -> None:
    messages: list[str] = []
    faults = Faults(pattern, fault)
    with Registry(serve(faults=faults).host, cancelled=pauses, say=messages.append) as registry:
        publication = push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        assert registry.tags("app") == ("1",)
        assert registry.find_manifest("app", "1") == publication.digest
    # The client takes a closed keep-alive connection for an idle timeout and retries without a pause.
    if fault.close_after_bytes != 0:
        assert pauses.taken == [0.5]
        assert len(messages) == 1
        assert "(attempt 1 of 5)" in messages[0]


def test_pauses_as_long_as_the_retry_after_header_requires(serve: Serve, pauses: Pauses) -> None:
    faults = Faults("HEAD", Fault(status=429, code="TOOMANYREQUESTS", headers={"Retry-After": "7"}))
    with Registry(serve(faults=faults).host, cancelled=pauses) as registry:
        assert not registry.has_blob("app", NO_DIGEST)
    assert pauses.taken == [7.0]


PERMANENT_FAULTS = {
    "always 500": ("PUT .*/blobs/uploads/", Fault(status=500), "answered 500 UNAVAILABLE"),
    "always closed": ("PUT .*/blobs/uploads/", Fault(close_after_bytes=100), "connection lost"),
}


@pytest.mark.parametrize(("pattern", "fault", "words"), PERMANENT_FAULTS.values(), ids=list(PERMANENT_FAULTS))
def test_fails_after_five_tries(
    serve: Serve, layers: tuple[LayerBlob, ...], pauses: Pauses, pattern: str, fault: Fault, words: str
) -> None:
    faults = Faults(pattern, fault, times=1000)
    registry = serve(faults=faults)
    with (
        Registry(registry.host, cancelled=pauses) as client,
        pytest.raises(PublishError, match=words) as caught,
    ):
        push(CONFIG, layers[:1], registry=client, repository="app", tags=("1",))
    assert "(5 tries)" in caught.value.message
    assert f"{registry.host}/app: blob sha256:" in caught.value.message
    assert f"curl -i http://{registry.host}/v2/" in caught.value.hint
    assert not any("PUT /v2/app/manifests" in asked for asked in faults.asked)


def test_reports_an_unreachable_registry_at_once(tmp_path: Path, pauses: Pauses) -> None:
    with LocalRegistry(tmp_path / "gone") as gone:
        host = gone.host
    with Registry(host, cancelled=pauses) as registry, pytest.raises(MissingError, match="refused") as caught:
        registry.ping()
    assert host in caught.value.message
    assert "curl" in caught.value.hint
    assert pauses.taken == []


def test_retries_if_a_registry_that_answered_becomes_unreachable(tmp_path: Path, pauses: Pauses) -> None:
    with LocalRegistry(tmp_path / "gone") as gone:
        registry = Registry(gone.host, cancelled=pauses)
        registry.ping()
    with registry, pytest.raises(MissingError, match="5 tries"):
        registry.ping()
    assert pauses.taken == [0.5, 1.0, 2.0, 4.0]


def test_reconnects_without_a_pause_if_an_idle_connection_was_closed(tmp_path: Path, pauses: Pauses) -> None:
    with LocalRegistry(tmp_path / "registry") as first:
        registry = Registry(first.host, cancelled=pauses)
        registry.ping()
    port = int(first.host.rsplit(":", 1)[1])
    with LocalRegistry(tmp_path / "registry", port=port), registry:
        registry.ping()
    assert pauses.taken == []


@pytest.mark.parametrize("tags", [("1",), ()])
@pytest.mark.parametrize("is_second", [False, True], ids=["push", "second push"])
def test_refuses_a_manifest_that_reads_back_with_other_content(
    stubs: Callable[..., Stub], layers: tuple[LayerBlob, ...], tags: tuple[str, ...], is_second: bool
) -> None:
    digest, other = sha256(manifest(CONFIG, layers)), b'{"malicious": true}'
    stored = is_second

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        nonlocal stored
        if asked.line.startswith("PUT "):
            stored = True
            return 201, {}, b""
        if "/manifests/" not in asked.line:
            return 200, {}, b""
        return 200 if stored else 404, {"Docker-Content-Digest": digest}, other

    with Registry(stubs(Stub(answer=answer)).host) as registry, pytest.raises(IntegrityError) as caught:
        push(CONFIG, layers, registry=registry, repository="app", tags=tags)
    assert digest in caught.value.message
    assert sha256(other) in caught.value.message


def test_refuses_a_manifest_that_does_not_match_its_digest(
    serve: Serve, layers: tuple[LayerBlob, ...]
) -> None:
    faults = Faults("GET .*/manifests/1", Fault(headers={"Docker-Content-Digest": NO_DIGEST}), times=9)
    with Registry(serve(faults=faults).host) as registry:
        push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        with pytest.raises(IntegrityError):
            registry.get_manifest("app", "1")


def test_restarts_a_truncated_download(serve: Serve, layers: tuple[LayerBlob, ...], pauses: Pauses) -> None:
    faults = Faults("GET .*/blobs/", Fault(truncate_to=1000))
    with Registry(serve(faults=faults).host, cancelled=pauses) as registry:
        push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        assert registry.get_blob("app", layers[1].digest) == layers[1].path.read_bytes()
    assert pauses.taken == [0.5]


@pytest.mark.parametrize("ask", [Registry.get_blob, Registry.get_manifest])
def test_reads_a_limited_part_of_a_response_without_end(
    stubs: Callable[..., Stub], ask: Callable[[Registry, str, str], object]
) -> None:
    endless = stubs(Stub(answer=lambda _: (200, {"Content-Length": str(1 << 40)}, bytes(9 << 20))))
    with Registry(endless.host) as registry, pytest.raises(IntegrityError, match=f"expected {NO_DIGEST}"):
        ask(registry, "app", NO_DIGEST)


def test_refuses_a_blob_that_does_not_match_its_digest(serve: Serve, layers: tuple[LayerBlob, ...]) -> None:
    server = serve()
    with Registry(server.host) as registry:
        push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        server.storage.blob("app", layers[1].digest).write_bytes(b"other")
        with pytest.raises(IntegrityError, match=layers[1].digest):
            registry.get_blob("app", layers[1].digest)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"config": {"digest": "../../blobs"}}', b"[" * 100_000, b"\xff"],
    ids=["list", "no-config", "no-digest", "deep", "no-text"],
)
def test_cache_has_no_layer_if_its_manifest_is_not_of_an_image(
    stubs: Callable[..., Stub], tmp_path: Path, body: bytes
) -> None:
    stub = stubs(Stub(answer=lambda _: (200, {}, body)))
    cache = RegistryCache(engine=Engine(), repository=f"{stub.host}/layers", blobs=tmp_path, network=DIRECT)
    assert not cache.has("0123")
    assert [asked.line.split(" ")[1] for asked in stub.asked] == ["/v2/layers/manifests/cache-0123"]


class SingleImageEngine(Engine):
    """An engine with one image, which has no layers and a given creation time."""

    def __init__(self, created: object) -> None:
        super().__init__()
        self._record = {"created": created, "rootfs": {"type": "layers", "diff_ids": []}}
        self._config = json.dumps(self._record).encode()

    def inspect_image(self, reference: str) -> dict[str, Any]:
        del reference
        record = {"Created": self._record["created"], "RootFS": {"Layers": []}}
        return {"Id": sha256(self._config), **record}

    @contextmanager
    def export(self, image: str) -> Iterator[IO[bytes]]:
        del image
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            manifest = json.dumps([{"Config": "config.json"}]).encode()
            for name, content in (("config.json", self._config), ("manifest.json", manifest)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        stream.seek(0)
        yield stream


OLD, NEW = "2026-01-01T09:00:00.123456789Z", "2026-01-01T09:30:00Z"


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (OLD, NEW, True),
        (NEW, OLD, False),
        (NEW, NEW, True),
        ("2026-01-01T10:00:00+02:00", OLD, True),
        ("soon", OLD, True),
        ("0001-01-01T00:00:00+02:00", OLD, True),
        (None, OLD, True),
        (NEW, "", True),
    ],
)
def test_moves_the_tag_of_a_stack_to_an_older_image_only_by_force(
    serve: Serve, repository: Repository, tmp_path: Path, before: object, after: object, moves: bool
) -> None:
    plan, server = repository.plan(), serve()

    def publish(created: object, *, force: bool = False) -> Publication:
        publisher = RegistryPublisher(
            engine=SingleImageEngine(created),
            repository_prefix=f"{server.host}/team",
            blobs=tmp_path / "store",
            network=DIRECT,
            force=force,
        )
        artifact = Artifact(kind="container", target="hello", reference="sha256:1", key=plan.key, layers=())
        return publisher.publish(plan, artifact)

    first = publish(before)
    if not moves:
        with pytest.raises(PublishError, match="is an image of 2026-01-01 09:30:00") as caught:
            publish(after)
        assert "--force" in caught.value.hint
        assert current_digest(server, plan) == first.digest
    assert publish(after, force=not moves).digest == current_digest(server, plan)


def current_digest(server: LocalRegistry, plan: Plan) -> str | None:
    with Registry(server.host) as client:
        return client.find_manifest("team/hello", plan.stack.name)


@pytest.mark.parametrize("password", ["", "wrong", "right"])
def test_pushes_only_with_the_right_password(
    serve: Serve, layers: tuple[LayerBlob, ...], password: str
) -> None:
    credentials = Credentials(username="me", password=password) if password else None
    with Registry(serve(login=("me", "right")).host, credentials=credentials) as registry:
        if password == "right":
            assert push(CONFIG, layers, registry=registry, repository="app", tags=("1",)).pushed_bytes
            return
        with pytest.raises(MissingError, match="answered 401") as caught:
            push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
    assert ("user me" if password else "not logged in") in caught.value.message
    assert caught.value.hint == f"docker login {registry.host}"


def test_refusal_of_an_unknown_repository_hints_how_to_create_it(
    serve: Serve, layers: tuple[LayerBlob, ...]
) -> None:
    server = serve(create_on_push=False)
    with Registry(server.host) as registry:
        with pytest.raises(PublishError, match="NAME_UNKNOWN") as caught:
            push(CONFIG, layers, registry=registry, repository="team/app", tags=("1",))
        assert "--repository-name team/app" in caught.value.hint
        server.create_repository("team/app")
        push(CONFIG, layers, registry=registry, repository="team/app", tags=("1",))


def test_immutable_tag_accepts_only_the_same_image(serve: Serve, layers: tuple[LayerBlob, ...]) -> None:
    with Registry(serve(immutable_tags=True).host) as registry:
        first = push(CONFIG, layers, registry=registry, repository="app", tags=("1",))
        assert push(CONFIG, layers, registry=registry, repository="app", tags=("1",)).digest == first.digest
        with pytest.raises(PublishError, match="immutable"):
            push(CONFIG, layers[:1], registry=registry, repository="app", tags=("1",))
        assert registry.find_manifest("app", "1") == first.digest


def test_cancellation_stops_an_upload(serve: Serve, tmp_path: Path) -> None:
    cancelled = threading.Event()

    def cancel(method: str, path: str) -> Fault | None:
        if method == "PUT":
            cancelled.set()
        return None

    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    # The digest is wrong on purpose, so that a complete upload would raise IntegrityError.
    blob = Blob(digest=NO_DIGEST, size_bytes=64 << 20, source=large)
    with Registry(serve(faults=cancel).host, cancelled=cancelled) as registry, pytest.raises(Interrupted):
        registry.push_blobs("app", [blob])


def test_first_failed_blob_stops_the_other_uploads(serve: Serve, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(256 << 20)
    blobs = [
        Blob(digest=NO_DIGEST, size_bytes=2, source=b"no"),
        Blob(digest=f"sha256:{'1' * 64}", size_bytes=256 << 20, source=large),
    ]
    with Registry(serve().host) as registry, pytest.raises(FactoryError) as caught:
        registry.push_blobs("app", blobs)
    assert isinstance(caught.value, IntegrityError)
    assert NO_DIGEST in caught.value.message
