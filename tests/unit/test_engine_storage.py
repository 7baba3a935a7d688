"""Layers read from the storage of an engine, here a folder in the engine's format."""

import base64
import gzip
import io
import json
import os
import random
import tarfile
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.engine.client import Engine
from builder.adapters.engine.storage import Storage, StorageError, chain_ids
from builder.adapters.registry.blobs import BlobStore, sha256
from builder.adapters.registry.exports import collect
from builder.adapters.registry.publisher import compress_layers

CONTENT = random.Random(7).randbytes(3_000_000)


def make_tar(number: int) -> bytes:
    """Return a layer with a folder, files, a hard link, a symbolic link, a deletion and a long name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in {
            f"opt/large-{number}": CONTENT,
            "opt/empty": b"",
            f"opt/{'long' * 60}": b"text",
            "opt/.wh.deleted": b"",
            "opt/ünïcode": b"\0" * 700,
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for kind, name in ((tarfile.LNKTYPE, "opt/hard"), (tarfile.SYMTYPE, "opt/soft")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, f"opt/large-{number}"
            tar.addfile(member)
    return file.getvalue()


def split(tar: bytes) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """Split a tar into the entries of tar-split.json.gz and the contents of its files."""
    entries: list[dict[str, object]] = []
    files, end = {}, 0

    def keep(upto: int) -> None:
        entries.append({"type": 2, "payload": base64.b64encode(tar[end:upto]).decode()})

    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            keep(member.offset_data)
            end = member.offset_data
            entry: dict[str, object] = {"type": 1, "name": member.name, "payload": None}
            if member.isreg() and member.size:
                files[member.name] = tar[end : end + member.size]
                entry["size"] = member.size
                end += member.size
            entries.append(entry)
    keep(len(tar))
    return entries, files


class Layered:
    """An image of two layers in a storage folder."""

    def __init__(self, root: Path) -> None:
        self.storage = Storage(root)
        self.tars = [make_tar(1), make_tar(2)]
        self.diff_ids = [sha256(tar) for tar in self.tars]
        self.config = json.dumps({"rootfs": {"type": "layers", "diff_ids": self.diff_ids}}).encode()
        self.image_id = sha256(self.config)
        self.folders = []
        images = root / "image/overlay2"
        for chain, tar in zip(chain_ids(self.diff_ids), self.tars, strict=True):
            folder = images / "layerdb/sha256" / chain.removeprefix("sha256:")
            folder.mkdir(parents=True)
            cache_id = sha256(chain.encode()).removeprefix("sha256:")
            (folder / "cache-id").write_text(cache_id)
            entries, files = split(tar)
            lines = "".join(json.dumps(entry) + "\n" for entry in entries)
            (folder / "tar-split.json.gz").write_bytes(gzip.compress(lines.encode()))
            diff = root / "overlay2" / cache_id / "diff"
            for name, content in files.items():
                (diff / name).parent.mkdir(parents=True, exist_ok=True)
                (diff / name).write_bytes(content)
            self.folders.append((folder, diff))
        content = images / "imagedb/content/sha256"
        content.mkdir(parents=True)
        (content / self.image_id.removeprefix("sha256:")).write_bytes(self.config)

    def export(self) -> bytes:
        """Return the image in the layout of `docker save`."""
        file = io.BytesIO()
        manifest = [{"Config": "config.json", "Layers": ["a/layer.tar", "b/layer.tar"]}]
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in (
                ("a/layer.tar", self.tars[0]),
                ("b/layer.tar", self.tars[1]),
                ("config.json", self.config),
                ("manifest.json", json.dumps(manifest).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return file.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Layered:
    return Layered(tmp_path / "engine")


@pytest.mark.parametrize("size", [1, 511, 1 << 20, -1])
def test_a_layer_read_from_the_storage_equals_its_tar(image: Layered, size: int) -> None:
    for i, tar in enumerate(image.tars, start=1):
        with image.storage.open_layer(image.diff_ids[:i]) as layer:
            if size == 1:
                assert layer.read(1) + layer.read(2) == tar[:3]
                continue
            read = b"".join(iter(lambda layer=layer: layer.read(size), b""))
        assert size == 1 or read == tar


def test_an_image_in_the_storage_needs_no_export(image: Layered, tmp_path: Path) -> None:
    config, layers = collect(
        lambda: pytest.fail("unexpected export"),
        image_id=image.image_id,
        diff_ids=image.diff_ids,
        store=BlobStore(tmp_path / "store"),
        storage=image.storage,
    )
    assert config == image.config
    assert [gzip.decompress(layer.path.read_bytes()) for layer in layers] == image.tars


def edit_entries(folder: Path, text: bytes) -> None:
    (folder / "tar-split.json.gz").write_bytes(gzip.compress(text))


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "changed file": lambda _, diff: (diff / "opt/large-2").write_bytes(CONTENT[::-1]),
    "shorter file": lambda _, diff: (diff / "opt/large-2").write_bytes(b"short"),
    "missing file": lambda _, diff: (diff / "opt/large-2").unlink(),
    "missing cache-id": lambda folder, _: (folder / "cache-id").unlink(),
    "path as cache-id": lambda folder, _: (folder / "cache-id").write_text("../" * 22),
    "binary cache-id": lambda folder, _: (folder / "cache-id").write_bytes(b"\xff" * 64),
    "missing record": lambda folder, _: (folder / "tar-split.json.gz").unlink(),
    "record without gzip": lambda folder, _: (folder / "tar-split.json.gz").write_bytes(b"text"),
    "record of another form": lambda folder, _: edit_entries(folder, b"[1]\n"),
    "record with a bad number": lambda folder, _: edit_entries(
        folder, b'{"type": 1, "name": "x", "size": "y"}\n'
    ),
    "deep record": lambda folder, _: edit_entries(folder, b"[" * 100_000),
    "empty record": lambda folder, _: edit_entries(folder, b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_layer_that_differs_in_the_storage_is_read_from_an_export(
    image: Layered, tmp_path: Path, damage: str
) -> None:
    DAMAGES[damage](*image.folders[1])
    store = BlobStore(tmp_path / "store")
    config, layers = collect(
        lambda: nullcontext(io.BytesIO(image.export())),
        image_id=image.image_id,
        diff_ids=image.diff_ids,
        store=store,
        storage=image.storage,
    )
    assert config == image.config
    assert [gzip.decompress(layer.path.read_bytes()) for layer in layers] == image.tars
    assert not list((store.folder / "partial").iterdir())


def test_reading_from_the_storage_neither_follows_links_nor_waits_for_pipes(
    image: Layered, tmp_path: Path
) -> None:
    file = image.folders[1][1] / "opt/large-2"
    (tmp_path / "secret").write_bytes(CONTENT)
    file.unlink()
    file.symlink_to(tmp_path / "secret")
    with image.storage.open_layer(image.diff_ids) as layer, pytest.raises(StorageError):
        layer.read()
    file.unlink()
    os.mkfifo(file)
    with image.storage.open_layer(image.diff_ids) as layer:
        assert layer.read() != image.tars[1]


def test_a_storage_of_another_engine_has_no_layers(image: Layered, tmp_path: Path) -> None:
    empty = Storage(tmp_path / "none")
    with pytest.raises(StorageError):
        empty.config(image.image_id)
    with pytest.raises(StorageError), empty.open_layer(image.diff_ids):
        pass


def test_a_config_with_another_digest_is_not_used(image: Layered, tmp_path: Path) -> None:
    path = tmp_path / "engine/image/overlay2/imagedb/content/sha256" / image.image_id.removeprefix("sha256:")
    path.write_bytes(b"{}")
    with pytest.raises(StorageError, match="another digest"):
        image.storage.config(image.image_id)


class OneImage(Engine):
    """Engine with a single image in its storage."""

    def __init__(self, image: Layered) -> None:
        super().__init__("unix:///nonexistent.sock")
        self._image = image
        self.__dict__["storage"] = image.storage

    def inspect_image(self, reference: str) -> dict[str, Any] | None:
        if reference != self._image.image_id:
            return None
        return {"Id": self._image.image_id, "RootFS": {"Layers": self._image.diff_ids}}


def test_layers_compressed_ahead_are_used_by_a_push(image: Layered, tmp_path: Path) -> None:
    compress_layers(OneImage(image), image.image_id, tmp_path / "store", threading.Event())
    config, layers = collect(
        lambda: pytest.fail("unexpected export"),
        image_id=image.image_id,
        diff_ids=image.diff_ids,
        store=BlobStore(tmp_path / "store"),
    )
    assert config == image.config
    assert [gzip.decompress(layer.path.read_bytes()) for layer in layers] == image.tars


def test_compressing_ahead_ignores_missing_images_damage_and_interrupts(
    image: Layered, tmp_path: Path
) -> None:
    engine, interrupted = OneImage(image), threading.Event()
    compress_layers(engine, "missing", tmp_path / "store", threading.Event())
    interrupted.set()
    compress_layers(engine, image.image_id, tmp_path / "store", interrupted)
    assert BlobStore(tmp_path / "store").find(image.diff_ids[0]) is None
    image.folders[1][0].joinpath("cache-id").unlink()
    compress_layers(engine, image.image_id, tmp_path / "store", threading.Event())
    store = BlobStore(tmp_path / "store")
    assert store.find(image.diff_ids[0]) is not None
    assert store.find(image.diff_ids[1]) is None
