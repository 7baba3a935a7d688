"""The Docker engine pushes to the rehearsal's registry and pulls from it, also what the builder pushed."""

import io
import os
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.container.finder import has_layer
from builder.adapters.engine.client import LAYERS, Engine
from builder.adapters.host.network import DIRECT
from builder.adapters.registry.blobs import BlobStore, sha256
from builder.adapters.registry.client import Registry, push
from builder.adapters.registry.exports import collect
from builder.adapters.registry.publisher import RegistryCache
from builder.errors import IntegrityError, MissingError
from builder.marks import KEY_LABEL
from builder.model import Layer, Publication
from builder.rehearsal.registry.server import Fault, LocalRegistry

pytestmark = pytest.mark.engine
BOUND_S = 120


def docker(*arguments: str, stdin: bytes | None = None, must: bool = True) -> str:
    ended = subprocess.run(
        ["docker", *arguments], input=stdin, capture_output=True, timeout=BOUND_S, check=False
    )
    assert ended.returncode == 0 or not must, ended.stderr.decode()
    return (ended.stdout if must else ended.stdout + ended.stderr).decode().strip()


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    try:
        engine.version()
    except MissingError as missing:
        pytest.skip(f"capability absent: {missing.message}")
    return engine


@pytest.fixture
def image(engine: Engine, tmp_path: Path, keep_artifacts: bool) -> Iterator[str]:
    """An image of three layers, two of them identical, built from scratch."""
    name = f"factory-test-registry:{uuid.uuid4().hex[:12]}"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("base")
        member.size = 2_000_000
        archive.addfile(member, io.BytesIO(uuid.uuid4().bytes * 125_000))
    docker("import", "-", f"{name}-base", stdin=stream.getvalue())
    (tmp_path / "same").write_text("the same")
    dockerfile = f"FROM {name}-base\nCOPY same /same\nCOPY same /same\nLABEL note='<ü & \"'\n"
    docker("build", "--quiet", "--tag", name, "--file", "-", str(tmp_path), stdin=dockerfile.encode())
    yield name
    if not keep_artifacts:
        for tag in (name, f"{name}-base"):
            if found := engine.inspect_image(tag):
                for reference in (*found["RepoTags"], *found["RepoDigests"]):
                    engine.remove_image(reference)


def image_id(reference: str) -> str:
    return docker("inspect", "--format", "{{.Id}}", reference)


def publish(engine: Engine, image: str, registry: str, store: BlobStore) -> Publication:
    found = engine.inspect_image(image)
    assert found is not None
    config, layers = collect(
        lambda: engine.export(image),
        image_id=found["Id"],
        diff_ids=found["RootFS"]["Layers"],
        store=store,
    )
    assert sha256(config) == found["Id"]
    with Registry(registry) as client:
        return push(config, layers, registry=client, repository="ours", tags=("1",))


def test_engine_pushes_and_pulls(engine: Engine, image: str, tmp_path: Path) -> None:
    with LocalRegistry(tmp_path / "registry") as registry:
        name = f"{registry.host}/theirs:1"
        docker("tag", image, name)
        pushed = docker("push", name)
        docker("rmi", name)
        docker("pull", name)
        with Registry(registry.host) as client:
            assert f"digest: {client.find_manifest('theirs', '1')}" in pushed
        assert image_id(name) == docker("inspect", "--format", "{{.Id}}", image)
        docker("rmi", name)


def test_layers_from_the_storage_of_the_engine_equal_those_of_its_export(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    if engine.storage is None or not os.access(engine.storage.root, os.R_OK | os.X_OK):
        pytest.skip("the storage of the engine is readable only for root, with the driver overlay2")
    found = engine.inspect_image(image)
    assert found is not None
    chosen = {"image_id": found["Id"], "diff_ids": found["RootFS"]["Layers"]}
    exported = collect(lambda: engine.export(image), store=BlobStore(tmp_path / "export"), **chosen)
    read = collect(
        lambda: pytest.fail("unexpected export"),
        store=BlobStore(tmp_path / "read"),
        storage=engine.storage,
        **chosen,
    )
    assert read[0] == exported[0]
    assert [layer.digest for layer in read[1]] == [layer.digest for layer in exported[1]]


def test_engine_pulls_an_image_that_the_builder_pushed(engine: Engine, image: str, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store")
    identity = image_id(image)
    with LocalRegistry(tmp_path / "registry") as registry:
        publication = publish(engine, image, registry.host, store)
        assert publish(engine, image, registry.host, store).pushed_bytes == 0
        # Remove the image first, so that the engine fetches and unpacks every layer.
        docker("rmi", image, f"{image}-base")
        docker("pull", publication.name)
        assert image_id(publication.name) == identity
        docker("tag", identity, image)
        docker("rmi", publication.name)


def test_engine_logs_in_to_the_registry(engine: Engine, image: str, tmp_path: Path) -> None:
    with LocalRegistry(tmp_path / "registry", login=("me", "secret"), create_on_push=False) as registry:
        registry.create_repository("app")
        config = ("--config", str(tmp_path / "docker"))
        assert "401" in docker(
            *config, "login", "-u", "me", "--password-stdin", registry.host, stdin=b"wrong", must=False
        )
        docker(*config, "login", "-u", "me", "--password-stdin", registry.host, stdin=b"secret")
        for repository, outcome in (("app", "digest: sha256:"), ("other", "not known to this registry")):
            name = f"{registry.host}/{repository}:1"
            docker("tag", image, name)
            assert outcome in docker(*config, "push", name, must=False)
            docker("rmi", name)


def test_engine_retries_a_truncated_upload(engine: Engine, image: str, tmp_path: Path) -> None:
    truncated: list[str] = []

    def once(method: str, path: str) -> Fault | None:
        if method == "PATCH" and not truncated:
            truncated.append(path)
            return Fault(close_after_bytes=100)
        return None

    with LocalRegistry(tmp_path / "registry", faults=once) as registry:
        name = f"{registry.host}/app:1"
        docker("tag", image, name)
        assert "digest: sha256:" in docker("push", name)
        docker("rmi", name)
    assert truncated


def test_pull_refuses_a_manifest_that_does_not_match_its_digest(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    folder = tmp_path / "registry"
    with LocalRegistry(folder) as registry:
        published = publish(engine, image, registry.host, BlobStore(tmp_path / "store"))
        (manifest,) = folder.rglob(f"blobs/{published.digest}")
        manifest.write_bytes(manifest.read_bytes() + b" ")
        with pytest.raises(IntegrityError, match="verification failed"):
            engine.pull(published.name)


def test_cache_has_no_layer_with_a_damaged_file(engine: Engine, image: str, tmp_path: Path) -> None:
    key, folder = uuid.uuid4().hex, tmp_path / "registry"
    dockerfile = f"FROM {image}\nLABEL {KEY_LABEL}={key}"
    docker("build", "--quiet", "--tag", f"{LAYERS}:{key}", "-", stdin=dockerfile.encode())
    with LocalRegistry(folder) as registry:

        def cache() -> RegistryCache:
            return RegistryCache(
                engine=engine, repository=f"{registry.host}/layers", blobs=tmp_path / "store", network=DIRECT
            )

        cache().keep(key)
        docker("rmi", f"{LAYERS}:{key}", image, f"{image}-base")
        blobs = list((folder / "blobs").iterdir())
        assert len(blobs) == 4, "the manifest, the config and two layers"
        for path in blobs:
            content = path.read_bytes()
            path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
            found = cache()
            assert not (found.has(key) and found.fetch(key)), path
            assert not found.has(key)
            assert key not in engine.layers()
            path.write_bytes(content)
        found = cache()
        assert found.has(key)
        assert found.fetch(key)
    docker("rmi", f"{LAYERS}:{key}")


def test_cache_ignores_a_layer_that_is_labelled_with_another_key(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    own, other = uuid.uuid4().hex, uuid.uuid4().hex
    dockerfile = f"FROM {image}\nLABEL {KEY_LABEL}={own}"
    docker("build", "--quiet", "--tag", f"{LAYERS}:{own}", "-", stdin=dockerfile.encode())
    with LocalRegistry(tmp_path / "registry") as registry, Registry(registry.host) as client:
        cache = RegistryCache(
            engine=engine, repository=f"{registry.host}/layers", blobs=tmp_path / "store", network=DIRECT
        )
        assert not cache.has(own)
        cache.keep(own)
        docker("rmi", f"{LAYERS}:{own}")
        assert cache.has(own)
        cache.fetch(own)
        found = client.get_manifest("layers", f"cache-{own}")
        assert found is not None
        client.put_manifest("layers", f"cache-{other}", found[0])
        assert not cache.has(other)
    assert own in engine.layers()
    docker("tag", f"{LAYERS}:{own}", f"{LAYERS}:{other}")  # another program may set any tag
    layers = [Layer(name="tools", kind="components", key=key, parent="", inputs={}) for key in (own, other)]
    assert [has_layer(engine.layers(), layer) for layer in layers] == [True, False]
    docker("rmi", f"{LAYERS}:{own}", f"{LAYERS}:{other}")
