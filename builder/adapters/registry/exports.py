"""Bring the layers of an image from the engine's export into the store of compressed layers.

Knows the layouts of `docker save`; must not know registries or the engine.
"""

import gzip
import io
import json
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import PurePosixPath
from typing import IO

from builder.adapters.registry.blobs import CHUNK, BlobStore, LayerBlob, Readable, sha256
from builder.errors import BuildError, IntegrityError

SMALL = 4 << 20  # configs and manifests; a larger JSON document is no image config
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.ReadError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BuildError(
            f"{name}: the engine's export broke off or is damaged ({error})",
            hint="see whether the engine still answers: docker info",
        ) from error


def export(
    stream: IO[bytes],
    *,
    diff_ids: Sequence[str],
    store: BlobStore,
    ready: Callable[[LayerBlob], None] | None = None,
    cancelled: threading.Event | None = None,
) -> bytes:
    """Bring the layers of one image from the engine's export into the store; returns the image's config.

    Reads the layout of engines before 25 (`<id>/layer.tar`) and the OCI layout of later ones in one pass.
    What is stored already is passed over without hashing where the export lets one know it by name.
    `ready` hears of each new layer as soon as it is stored, so that pushing can start before the end.
    """
    missing = {diff_id for diff_id in diff_ids if store.find(diff_id) is None}
    documents: dict[str, bytes] = {}
    with _read_errors("docker save"), tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
        for name, diff_id, tar in _layers_of(archive, _chain_ids(diff_ids), documents):
            if not diff_id or diff_id in missing:
                layer = store.add_any(diff_ids, tar, name=name, cancelled=cancelled)
                missing.discard(layer.diff_id)
                if ready is not None:
                    ready(layer)
    if missing:
        raise IntegrityError(
            f"docker save: the export lacks {', '.join(sorted(missing))} of {len(diff_ids)} layers",
            hint="the engine's storage is damaged or the image changed meanwhile: build it again",
        )
    return _config(documents, diff_ids)


def collect(
    open_export: Callable[[], AbstractContextManager[IO[bytes]]],
    *,
    image_id: str,
    diff_ids: Sequence[str],
    store: BlobStore,
    ready: Callable[[LayerBlob], None] | None = None,
    cancelled: threading.Event | None = None,
) -> tuple[bytes, tuple[LayerBlob, ...]]:
    """The config and the compressed layers of an image, bottom first; the engine exports only what is new."""
    config = store.config(image_id)
    layers = [store.find(diff_id) for diff_id in diff_ids]
    if config is None or None in layers:
        with open_export() as stream:
            config = export(stream, diff_ids=diff_ids, store=store, ready=ready, cancelled=cancelled)
        store.add_config(image_id, config)
        layers = [store.find(diff_id) for diff_id in diff_ids]
    return config, tuple(layer for layer in layers if layer is not None)


def _layers_of(
    archive: tarfile.TarFile, chains: Mapping[str, str], documents: dict[str, bytes]
) -> Iterator[tuple[str, str, Readable]]:
    """Name, diff id ("" while unknown) and tar of each layer in an export; puts the rest into `documents`."""
    for member in archive:
        content = archive.extractfile(member) if member.isreg() else None
        if content is None:  # folders, and links to a layer that stands elsewhere in the archive
            continue
        assert isinstance(content, io.BufferedReader)
        opening = content.peek(len(ZSTD_MAGIC))
        path = PurePosixPath(member.name)
        by_name = f"sha256:{path.name}" if path.parts[0] == "blobs" else ""
        if path.name == "layer.tar":
            description = documents.get(f"{path.parent}/json")
            yield member.name, _diff_id_of_folder(path.parent.name, description, chains), content
        elif by_name in chains.values():
            yield member.name, by_name, content
        elif opening.startswith(GZIP_MAGIC):  # engines from 29 on keep what they pulled as it came
            yield member.name, "", gzip.GzipFile(fileobj=content, mode="rb")
        elif opening.startswith(ZSTD_MAGIC):
            raise BuildError(
                f"{member.name}: the engine keeps this layer compressed by zstd, which cannot be read here",
                hint="pull or build the base image with gzip layers",
            )
        elif member.size <= SMALL:
            documents[str(path)] = content.read()


def _chain_ids(diff_ids: Sequence[str]) -> dict[str, str]:
    """Which diff id ends the chain of each chain id (a layer together with all below it)."""
    chains: dict[str, str] = {}
    chain = ""
    for diff_id in diff_ids:
        chain = sha256(f"{chain} {diff_id}".encode()) if chain else diff_id
        chains[chain] = diff_id
    return chains


def _diff_id_of_folder(folder: str, description: bytes | None, chains: Mapping[str, str]) -> str:
    """The diff id of a layer in the old layout, "" where it shows only once the layer is read.

    Engines name the folder of every layer but the topmost after a hash of the layer's chain id and of
    the `json` beside it, without the members added afterwards. A match cannot be chance.
    """
    try:
        document = json.loads(description or b"")
        document.pop("id")
        document.pop("os", None)
        if parent := document.pop("parent", ""):
            document["parent"] = f"sha256:{parent}"
    except (ValueError, KeyError, AttributeError):
        return ""
    for chain, diff_id in chains.items():
        hashed = json.dumps(dict(sorted((document | {"layer_id": chain}).items())), separators=(",", ":"))
        if sha256(hashed.encode()) == f"sha256:{folder}":
            return diff_id
    return ""


def _config(documents: Mapping[str, bytes], diff_ids: Sequence[str]) -> bytes:
    """The config that names exactly these layers, as the export's manifest points to it."""
    try:
        for image in json.loads(documents["manifest.json"]):
            config = documents[str(PurePosixPath(image["Config"]))]
            if json.loads(config)["rootfs"]["diff_ids"] == list(diff_ids):
                return config
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"docker save: the export's manifest.json or the image config is not readable ({error!r})",
            hint="see whether the engine is healthy: docker info",
        ) from error
    raise IntegrityError(
        "docker save: no image in the export consists of the expected layers",
        hint="the image was rebuilt meanwhile: run the command again",
    )
