"""The store of compressed layers, and reading layers from an engine's export."""

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
    """Name and description of a layer's folder as engines before 25 make them."""
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
    assert packed[4:8] == bytes(4), "a time in the header would make the digest depend on it"


def test_what_is_added_is_found_again(store: BlobStore) -> None:
    added = store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    check_layer(added, LAYERS[0])
    assert BlobStore(store.folder).find(added.diff_id) == added


def test_same_tar_gives_same_bytes(store: BlobStore, tmp_path: Path) -> None:
    other = BlobStore(tmp_path / "other")
    digests = {kept.add(sha256(LAYERS[2]), io.BytesIO(LAYERS[2])).digest for kept in (store, other)}
    assert len(digests) == 1


def test_without_isal_zlib_serves(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    check_layer(store.add(sha256(LAYERS[2]), io.BytesIO(LAYERS[2])), LAYERS[2])


def test_other_bytes_than_announced_are_refused_and_not_kept(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match="delivered diff id"):
        store.add(sha256(b"something else"), io.BytesIO(LAYERS[0]))
    assert [path for path in store.folder.rglob("*") if path.is_file()] == [store.folder / "lock"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "record"])
def test_a_damaged_entry_is_made_again(store: BlobStore, damage: str) -> None:
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


def test_leftovers_of_a_killed_writer_go(store: BlobStore) -> None:
    leftover = store.folder / "partial" / "tmp123"
    leftover.write_bytes(b"half")
    BlobStore(store.folder)
    assert not leftover.exists()


def test_what_is_being_written_stays(store: BlobStore) -> None:
    class Watching(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            BlobStore(store.folder)  # another process begins meanwhile
            return super().read(size)

    check_layer(store.add(sha256(LAYERS[1]), Watching(LAYERS[1])), LAYERS[1])


def test_cancelled_compression_leaves_nothing(store: BlobStore) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Interrupted):
        store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]), cancelled=cancelled)
    assert not list((store.folder / "partial").iterdir())


def test_a_full_disk_is_said(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: object, _chunk: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blobs._HashedFile, "write", full)
    with pytest.raises(PublishError, match="no space left") as caught:
        store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    assert caught.value.hint == f"df -h {store.folder}"
    assert not list((store.folder / "partial").iterdir())


def test_configs_are_kept_byte_for_byte(store: BlobStore) -> None:
    config = b'{ "rootfs" :  {} }'
    store.add_config(sha256(config), config)
    assert store.config(sha256(config)) == config
    assert store.config(sha256(b"other")) is None


def all_unneeded(
    store: BlobStore, needed: set[str], *, before: float = math.inf, max_bytes: int | None = None
) -> list[StoredBlob]:
    groups = store.unneeded(needed, before=before, max_bytes=max_bytes)
    return [blob for group in groups.values() for blob in group]


def test_what_serves_nothing_that_is_needed_is_removed(store: BlobStore) -> None:
    kept, gone = (store.add(sha256(layer), io.BytesIO(layer)) for layer in LAYERS[:2])
    store.add_config(sha256(b"{}"), b"{}")
    unneeded = all_unneeded(store, {kept.diff_id})
    assert sum(blob.size_bytes for blob in unneeded) == gone.size_bytes + len(b"{}")
    assert store.find(gone.diff_id) == gone, "finding removes nothing"
    store.remove([blob.digest for blob in unneeded])
    assert (store.find(kept.diff_id), store.find(gone.diff_id), store.config(sha256(b"{}"))) == (
        kept,
        None,
        None,
    )


def test_records_that_lead_nowhere_and_blobs_without_a_record_go(store: BlobStore) -> None:
    kept, lost = (store.add(sha256(layer), io.BytesIO(layer)) for layer in LAYERS[:2])
    lost.path.unlink()
    (store.folder / "layers" / sha256(b"x").removeprefix("sha256:")).write_text("not JSON")
    (store.folder / "sha256" / sha256(b"y").removeprefix("sha256:")).write_bytes(b"y")
    store.remove([blob.digest for blob in all_unneeded(store, {kept.diff_id})])
    names = {path.name for kind in ("layers", "sha256") for path in (store.folder / kind).iterdir()}
    assert names == {identifier.removeprefix("sha256:") for identifier in (kept.diff_id, kept.digest)}


def test_what_was_used_lately_stays(store: BlobStore) -> None:
    old, new = (store.add(sha256(layer), io.BytesIO(layer)) for layer in LAYERS[:2])
    for blob in (old, new):
        os.utime(blob.path, (1000, 1000))
    assert store.find(new.diff_id) == new, "which is a use"
    assert [blob.digest for blob in all_unneeded(store, set(), before=2000)] == [old.digest]


def test_the_least_recently_used_go_above_the_limit(store: BlobStore) -> None:
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


def test_nothing_is_removed_while_the_store_is_in_use(store: BlobStore) -> None:
    blob = store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    with BlobStore(store.folder).in_use(), pytest.raises(FactoryError, match="are in use, none was removed"):
        store.remove([blob.digest])
    assert store.find(blob.diff_id) == blob
    store.remove([blob.digest])
    assert store.find(blob.diff_id) is None


@pytest.mark.parametrize(
    "exported",
    [old_layout(LAYERS), oci_layout(LAYERS), oci_layout(LAYERS, packed=True)],
    ids=["old", "oci", "gzip"],
)
def test_every_layout_of_an_export_is_read(store: BlobStore, exported: bytes) -> None:
    heard: list[LayerBlob] = []
    assert export_bytes(exported, LAYERS, store, ready=heard.append) == config_of(LAYERS)
    for layer in LAYERS:
        check_layer(store.find(sha256(layer)), layer)
    assert {layer.diff_id for layer in heard} == {sha256(layer) for layer in LAYERS}


@pytest.mark.parametrize("exported", [old_layout(LAYERS), oci_layout(LAYERS)], ids=["old", "oci"])
def test_what_is_stored_is_not_compressed_again(store: BlobStore, exported: bytes) -> None:
    store.add(sha256(LAYERS[0]), io.BytesIO(LAYERS[0]))
    store.add(sha256(LAYERS[2]), io.BytesIO(LAYERS[2]))
    heard: list[LayerBlob] = []
    export_bytes(exported, LAYERS, store, ready=heard.append)
    assert [layer.diff_id for layer in heard] == [sha256(LAYERS[1])]


small = st.binary(max_size=2000).map(lambda content: tar_of({"file": content}))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.lists(small, min_size=1, max_size=6), is_old=st.booleans(), data=st.data())
def test_any_image_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, layers: list[bytes], is_old: bool, data: st.DataObject
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("store"))
    for known in data.draw(st.sets(st.sampled_from(layers))):
        store.add(sha256(known), io.BytesIO(known))
    exported = old_layout(layers) if is_old else oci_layout(layers)
    assert export_bytes(exported, layers, store) == config_of(layers)
    for layer in layers:
        check_layer(store.find(sha256(layer)), layer)


def test_a_second_collect_asks_the_engine_for_nothing(store: BlobStore) -> None:
    diff_ids = [sha256(layer) for layer in LAYERS]
    image_id = sha256(config_of(LAYERS))
    first = collect(
        lambda: nullcontext(io.BytesIO(old_layout(LAYERS))), image_id=image_id, diff_ids=diff_ids, store=store
    )
    second = collect(
        lambda: pytest.fail("everything is stored"), image_id=image_id, diff_ids=diff_ids, store=store
    )
    assert first == second
    assert [layer.diff_id for layer in first[1]] == diff_ids


def test_a_broken_off_export_is_said(store: BlobStore) -> None:
    with pytest.raises(BuildError, match="broke off"):
        export_bytes(old_layout(LAYERS)[:2_000_000], LAYERS, store)


def test_a_damaged_gzip_layer_is_said(store: BlobStore) -> None:
    damaged = zlib.compress(b"x", wbits=31)[:-8] + bytes(8)
    with pytest.raises(BuildError, match="damaged"):
        export_bytes(tar_of({f"blobs/sha256/{'0' * 64}": damaged}), LAYERS, store)


def test_a_missing_layer_is_named(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match=sha256(LAYERS[2])):
        export_bytes(old_layout(LAYERS[:2]), LAYERS, store)


def test_a_layer_of_another_image_is_refused(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match="which the image does not name"):
        export_bytes(old_layout(LAYERS), LAYERS[:2], store)


def test_a_zstd_layer_is_refused_with_a_way_out(store: BlobStore) -> None:
    exported = tar_of({f"blobs/sha256/{'0' * 64}": exports.ZSTD_MAGIC + b"..."})
    with pytest.raises(BuildError, match="zstd") as caught:
        export_bytes(exported, LAYERS, store)
    assert "gzip" in caught.value.hint
