"""The blob store of compressed layers, and the import of layers from an engine's export."""

import gzip
import hashlib
import io
import json
import math
import os
import tarfile
import threading
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.adapters.registry import blobs, exports
from builder.adapters.registry.blobs import BlobStore, LayerBlob, StoredBlob, sha256
from builder.adapters.registry.client import Blob
from builder.adapters.registry.exports import collect, export
from builder.errors import BuildError, FactoryError, IntegrityError, Interrupted, PublishError

ENGINE_ID = {"created": "1970-01-01T00:00:00Z", "container_config": {"Hostname": "", "Env": None}}


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def config_of(layers: Sequence[bytes]) -> bytes:
    return json.dumps({"os": "linux", "rootfs": {"diff_ids": [sha256(layer) for layer in layers]}}).encode()


def compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def folder_of(chain: str, parent: str) -> tuple[str, bytes]:
    """Return folder name and `json` file of a layer in the image export of Docker Engine before 25."""
    hashed: dict[str, Any] = {**ENGINE_ID, "layer_id": chain}
    if parent:
        hashed["parent"] = f"sha256:{parent}"
    name = hashlib.sha256(compact(dict(sorted(hashed.items())))).hexdigest()
    above = {"parent": parent} if parent else {}
    return name, compact({"id": name, **above, **ENGINE_ID, "os": "linux"})


def old_layout(layers: Sequence[bytes]) -> bytes:
    config, chain, parent = config_of(layers), "", ""
    files = {f"{hashlib.sha256(config).hexdigest()}.json": config}
    names = []
    for layer in layers:
        chain = sha256(f"{chain} {sha256(layer)}".encode()) if chain else sha256(layer)
        parent, description = folder_of(chain, parent)
        files |= {f"{parent}/VERSION": b"1.0", f"{parent}/json": description, f"{parent}/layer.tar": layer}
        names.append(f"{parent}/layer.tar")
    index = [{"Config": next(iter(files)), "RepoTags": None, "Layers": names}]
    return tar_of(files | {"manifest.json": json.dumps(index).encode()})


def oci_layout(layers: Sequence[bytes], *, packed: bool = False) -> bytes:
    config = config_of(layers)
    kept = [gzip.compress(layer) if packed else layer for layer in layers]
    files = {f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in (config, *kept)}
    index = [
        {
            "Config": f"blobs/sha256/{hashlib.sha256(config).hexdigest()}",
            "Layers": [f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}" for blob in kept],
        }
    ]
    return tar_of({**files, "oci-layout": b"{}", "manifest.json": json.dumps(index).encode()})


def export_bytes(tar: bytes, layers: Sequence[bytes], store: BlobStore, **options: Any) -> bytes:
    return export(io.BytesIO(tar), diff_ids=[sha256(layer) for layer in layers], store=store, **options)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


LAYERS = (tar_of({"a": b"a" * 3_000_000}), tar_of({"b/c": b"c"}), tar_of({"d": bytes(range(256)) * 9000}))


def check_layer(layer: LayerBlob | None, tar: bytes) -> None:
    assert layer is not None
    packed = layer.path.read_bytes()
    assert gzip.decompress(packed) == tar
    assert (layer.diff_id, layer.digest, layer.size_bytes) == (sha256(tar), sha256(packed), len(packed))
    assert packed[4:8] == bytes(4), "a time in the gzip header would change the digest"


def test_blob_store_finds_an_added_layer(store: BlobStore) -> None:
    added = store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    check_layer(added, LAYERS[0])
    assert BlobStore(store.folder).find(added.diff_id) == added


def test_layer_compression_is_deterministic(store: BlobStore, tmp_path: Path) -> None:
    other = BlobStore(tmp_path / "other")
    digests = {kept.add(sha256(LAYERS[2]), io.BytesIO(LAYERS[2])).digest for kept in (store, other)}
    assert len(digests) == 1


def test_layer_compression_uses_zlib_if_isal_is_missing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    check_layer(store.add(sha256(LAYERS[2]), io.BytesIO(LAYERS[2])), LAYERS[2])


def test_refuses_a_layer_with_another_diff_id_and_stores_nothing(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match="delivered diff id"):
        store.add(sha256(b"something else"), io.BytesIO(LAYERS[0]))
    assert [path for path in store.folder.rglob("*") if path.is_file()] == [store.folder / "lock"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "record"])
def test_replaces_a_damaged_layer(store: BlobStore, damage: str) -> None:
    layer = store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    record = store.folder / "layers" / layer.diff_id.removeprefix("sha256:")
    match damage:
        case "truncate":
            layer.path.write_bytes(layer.path.read_bytes()[:-1])
        case "remove":
            layer.path.unlink()
        case "record":
            record.write_text("{")
    assert store.find(layer.diff_id) is None
    check_layer(store.add(layer.diff_id, io.BytesIO(LAYERS[0])), LAYERS[0])


def test_deletes_partial_files_of_a_killed_writer(store: BlobStore) -> None:
    leftover = store.folder / "partial" / "tmp123"
    leftover.write_bytes(b"half")
    BlobStore(store.folder)
    assert not leftover.exists()


def test_keeps_the_partial_file_of_a_live_writer(store: BlobStore) -> None:
    class OpeningStore(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            BlobStore(store.folder)  # opens the store during the write, as another process may
            return super().read(size)

    check_layer(store.add(sha256(LAYERS[1]), OpeningStore(LAYERS[1])), LAYERS[1])


def test_cancelled_compression_leaves_no_file(store: BlobStore) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Interrupted):
        store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]), cancelled=cancelled)
    assert not list((store.folder / "partial").iterdir())


def test_reports_a_full_disk(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: object, _chunk: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blobs._HashedFile, "write", full)
    with pytest.raises(PublishError, match="no space left") as caught:
        store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    assert caught.value.hint == f"df -h {store.folder}"
    assert not list((store.folder / "partial").iterdir())


def test_stores_image_configurations_byte_for_byte(store: BlobStore) -> None:
    config = b'{ "rootfs" :  {} }'
    store.add_config(sha256(config), config)
    assert store.config(sha256(config)) == config
    assert store.config(sha256(b"other")) is None


def all_unneeded(
    store: BlobStore, needed: set[str], *, before: float = math.inf, max_bytes: int | None = None
) -> list[StoredBlob]:
    groups = store.unneeded(needed, before=before, max_bytes=max_bytes)
    return [blob for group in groups.values() for blob in group]


def test_removes_blobs_that_no_image_needs(store: BlobStore) -> None:
    kept, gone = (store.add(sha256(layer), io.BytesIO(layer)) for layer in LAYERS[:2])
    store.add_config(sha256(b"{}"), b"{}")
    unneeded = all_unneeded(store, {kept.diff_id})
    assert sum(blob.size_bytes for blob in unneeded) == gone.size_bytes + len(b"{}")
    assert store.find(gone.diff_id) == gone, "unneeded() must not remove blobs"
    store.remove([blob.digest for blob in unneeded])
    assert (store.find(kept.diff_id), store.find(gone.diff_id), store.config(sha256(b"{}"))) == (
        kept,
        None,
        None,
    )


def test_removes_records_without_a_blob_and_blobs_without_a_record(store: BlobStore) -> None:
    kept, lost = (store.add(sha256(layer), io.BytesIO(layer)) for layer in LAYERS[:2])
    lost.path.unlink()
    (store.folder / "layers" / sha256(b"x").removeprefix("sha256:")).write_text("not JSON")
    (store.folder / "sha256" / sha256(b"y").removeprefix("sha256:")).write_bytes(b"y")
    store.remove([blob.digest for blob in all_unneeded(store, {kept.diff_id})])
    names = {path.name for kind in ("layers", "sha256") for path in (store.folder / kind).iterdir()}
    assert names == {identifier.removeprefix("sha256:") for identifier in (kept.diff_id, kept.digest)}


def test_keeps_recently_used_blobs(store: BlobStore) -> None:
    old, new = (store.add(sha256(layer), io.BytesIO(layer)) for layer in LAYERS[:2])
    for blob in (old, new):
        os.utime(blob.path, (1000, 1000))
    assert store.find(new.diff_id) == new, "find() counts as a use"
    assert [blob.digest for blob in all_unneeded(store, set(), before=2000)] == [old.digest]


def test_removes_least_recently_used_blobs_above_the_size_limit(store: BlobStore) -> None:
    blobs = [store.add(sha256(layer), io.BytesIO(layer)) for layer in LAYERS]
    for age, blob in enumerate(reversed(blobs)):
        os.utime(blob.path, (1000 + age, 1000 + age))
    needed = {blob.diff_id for blob in blobs}
    total = sum(blob.size_bytes for blob in blobs)
    assert all_unneeded(store, needed, max_bytes=total) == []
    assert [blob.digest for blob in all_unneeded(store, needed, max_bytes=total - 1)] == [blobs[-1].digest]
    assert {blob.digest for blob in all_unneeded(store, needed, max_bytes=0)} == {
        blob.digest for blob in blobs
    }


def test_refuses_removal_while_the_store_is_in_use(store: BlobStore) -> None:
    blob = store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    with BlobStore(store.folder).in_use(), pytest.raises(FactoryError, match="are in use, so none"):
        store.remove([blob.digest])
    assert store.find(blob.diff_id) == blob
    store.remove([blob.digest])
    assert store.find(blob.diff_id) is None


@pytest.mark.parametrize(
    "exported",
    [old_layout(LAYERS), oci_layout(LAYERS), oci_layout(LAYERS, packed=True)],
    ids=["old", "oci", "gzip"],
)
def test_reads_every_export_layout(store: BlobStore, exported: bytes) -> None:
    heard: list[LayerBlob] = []
    assert export_bytes(exported, LAYERS, store, ready=heard.append) == config_of(LAYERS)
    for layer in LAYERS:
        check_layer(store.find(sha256(layer)), layer)
    assert {layer.diff_id for layer in heard} == {sha256(layer) for layer in LAYERS}


@pytest.mark.parametrize("exported", [old_layout(LAYERS), oci_layout(LAYERS)], ids=["old", "oci"])
def test_does_not_compress_a_stored_layer_again(store: BlobStore, exported: bytes) -> None:
    store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    store.add(sha256(LAYERS[2]), io.BytesIO(LAYERS[2]))
    heard: list[LayerBlob] = []
    export_bytes(exported, LAYERS, store, ready=heard.append)
    assert [layer.diff_id for layer in heard] == [sha256(LAYERS[1])]


small = st.binary(max_size=2000).map(lambda content: tar_of({"file": content}))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.lists(small, min_size=1, max_size=6), is_old=st.booleans(), data=st.data())
def test_imports_any_image_unchanged(
    tmp_path_factory: pytest.TempPathFactory, layers: list[bytes], is_old: bool, data: st.DataObject
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("store"))
    for known in data.draw(st.sets(st.sampled_from(layers))):
        store.add(sha256(known), io.BytesIO(known))
    exported = old_layout(layers) if is_old else oci_layout(layers)
    assert export_bytes(exported, layers, store) == config_of(layers)
    for layer in layers:
        check_layer(store.find(sha256(layer)), layer)


def test_a_second_import_of_stored_layers_needs_no_export(store: BlobStore) -> None:
    diff_ids = [sha256(layer) for layer in LAYERS]
    image_id = sha256(config_of(LAYERS))
    first = collect(
        lambda: nullcontext(io.BytesIO(old_layout(LAYERS))), image_id=image_id, diff_ids=diff_ids, store=store
    )
    second = collect(
        lambda: pytest.fail("unexpected export: all layers are stored"),
        image_id=image_id,
        diff_ids=diff_ids,
        store=store,
    )
    assert first == second
    assert [layer.diff_id for layer in first[1]] == diff_ids


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("position", [0, 20, -2])
@pytest.mark.parametrize("name", ["layers", "configs", "sha256"])
def test_a_flipped_bit_in_the_store_never_changes_the_image(
    store: BlobStore, name: str, position: int
) -> None:
    image_id, diff_ids = sha256(config_of(LAYERS)), [sha256(layer) for layer in LAYERS]

    def collected() -> tuple[bytes, tuple[LayerBlob, ...]]:
        opened = lambda: nullcontext(io.BytesIO(old_layout(LAYERS)))  # noqa: E731
        return collect(opened, image_id=image_id, diff_ids=diff_ids, store=store)

    first = collected()
    for path in sorted((store.folder / name).iterdir()):
        flip_bit(path, position)
        config, layers = collected()
        assert (config, [layer.digest for layer in layers]) == (first[0], [x.digest for x in first[1]])
        for layer in layers:
            if sha256(layer.path.read_bytes()) != layer.digest:
                with pytest.raises(IntegrityError, match="damaged"):
                    list(Blob.of(layer).read())
        for layer in collected()[1]:
            assert sha256(b"".join(Blob.of(layer).read())) == layer.digest


@pytest.mark.parametrize("kind", ["layers", "configs"])
def test_ignores_a_record_file_that_describes_another_blob(store: BlobStore, kind: str) -> None:
    images = [LAYERS[:1], LAYERS[1:]]
    for layers in images:
        diff_ids = [sha256(layer) for layer in layers]
        image_id = sha256(config_of(layers))
        collect(
            lambda layers=layers: nullcontext(io.BytesIO(old_layout(layers))),
            image_id=image_id,
            diff_ids=diff_ids,
            store=store,
        )
    records = list((store.folder / kind).iterdir())
    records[0].write_bytes(records[1].read_bytes())
    for layers in images:
        config, found = collect(
            lambda layers=layers: nullcontext(io.BytesIO(old_layout(layers))),
            image_id=sha256(config_of(layers)),
            diff_ids=[sha256(layer) for layer in layers],
            store=store,
        )
        assert config == config_of(layers)
        for layer, tar in zip(found, layers, strict=True):
            check_layer(layer, tar)


def test_reports_a_truncated_export(store: BlobStore) -> None:
    with pytest.raises(BuildError, match="incomplete or damaged"):
        export_bytes(old_layout(LAYERS)[:2_000_000], LAYERS, store)


def test_reports_a_damaged_gzip_layer(store: BlobStore) -> None:
    damaged = zlib.compress(b"x", wbits=31)[:-8] + bytes(8)
    with pytest.raises(BuildError, match="damaged"):
        export_bytes(tar_of({f"blobs/sha256/{'0' * 64}": damaged}), LAYERS, store)


def test_names_a_missing_layer(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match=sha256(LAYERS[2])):
        export_bytes(old_layout(LAYERS[:2]), LAYERS, store)


def test_refuses_a_layer_of_another_image(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match="which is not a layer of the image"):
        export_bytes(old_layout(LAYERS), LAYERS[:2], store)


def test_refusal_of_a_zstd_layer_hints_at_gzip(store: BlobStore) -> None:
    exported = tar_of({f"blobs/sha256/{'0' * 64}": exports.ZSTD_MAGIC + b"..."})
    with pytest.raises(BuildError, match="zstd") as caught:
        export_bytes(exported, LAYERS, store)
    assert "gzip" in caught.value.hint
