"""Add the layers of an image to the blob store, from the engine's storage or from an export of the engine.

Knows the layouts of `docker save`; must not know registries or the engine's API.
"""

import gzip
import io
import json
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import PurePosixPath
from typing import IO

from builder.adapters.engine.storage import Storage, StorageError, chain_ids
from builder.adapters.registry.blobs import CHUNK, BlobStore, LayerBlob, Readable, sha256
from builder.errors import BuildError, IntegrityError

SMALL = 4 << 20  # size limit of image configs and manifests
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_COPYING = threading.Lock()


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.ReadError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BuildError(
            f"{name}: the engine's export is incomplete or damaged ({error})",
            hint="check that the engine responds: docker info",
        ) from error


def export(
    stream: IO[bytes],
    *,
    diff_ids: Sequence[str],
    store: BlobStore,
    ready: Callable[[LayerBlob], None] | None = None,
    cancelled: threading.Event | None = None,
) -> bytes:
    """Store the layers of one image from the engine's export; return the image's config.

    Reads the layout of engines before 25 (`<id>/layer.tar`) and the OCI layout of later engines in one pass.
    A stored layer is skipped without hashing if the export identifies it by name. `ready` is called with each
    new layer once it is stored, so that the push can start before the export ends.
    """
    missing = {diff_id for diff_id in diff_ids if store.find(diff_id) is None}
    documents: dict[str, bytes] = {}
    chains = dict(zip(chain_ids(diff_ids), diff_ids, strict=True))
    with _read_errors("docker save"), tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
        for name, diff_id, tar in _layers_of(archive, chains, documents):
            if not diff_id or diff_id in missing:
                layer = store.add_any(diff_ids, tar, name=name, cancelled=cancelled)
                missing.discard(layer.diff_id)
                if ready is not None:
                    ready(layer)
    if missing:
        raise IntegrityError(
            f"docker save: the export lacks {', '.join(sorted(missing))} of {len(diff_ids)} layers",
            hint="build again if the image was rebuilt meanwhile; else the engine's storage is damaged:"
            " builder clean --all --yes",
        )
    return _config(documents, diff_ids)


def collect(
    open_export: Callable[[], AbstractContextManager[IO[bytes]]],
    *,
    image_id: str,
    diff_ids: Sequence[str],
    store: BlobStore,
    storage: Storage | None = None,
    ready: Callable[[LayerBlob], None] | None = None,
    cancelled: threading.Event | None = None,
) -> tuple[bytes, tuple[LayerBlob, ...]]:
    """Return config and compressed layers of an image, bottom first.

    Layers that the store lacks are read from `storage`; the image is exported only if that is not possible.
    """
    if storage is not None:
        copy(storage, image_id=image_id, diff_ids=diff_ids, store=store, cancelled=cancelled)
    config = store.config(image_id)
    if config is not None and not _has_layers(config, diff_ids):
        config = None
    layers = [store.find(diff_id) for diff_id in diff_ids]
    if config is None or None in layers:
        with open_export() as stream:
            config = export(stream, diff_ids=diff_ids, store=store, ready=ready, cancelled=cancelled)
        store.add_config(image_id, config)
        layers = [store.find(diff_id) for diff_id in diff_ids]
    return config, tuple(layer for layer in layers if layer is not None)


def copy(
    storage: Storage,
    *,
    image_id: str,
    diff_ids: Sequence[str],
    store: BlobStore,
    cancelled: threading.Event | None = None,
) -> None:
    """Add the config and layers that the store lacks; leave out the rest if one cannot be read.

    A layer whose files were changed has the wrong digest; the export in `collect` reports this damage.
    """
    with suppress(StorageError, IntegrityError):
        if store.config(image_id) is None:
            store.add_config(image_id, storage.config(image_id))
        for i, diff_id in enumerate(diff_ids, start=1):
            with _COPYING:  # else two targets could compress a layer that both have
                if store.find(diff_id) is None:
                    with storage.open_layer(diff_ids[:i]) as tar:
                        store.add(diff_id, tar, cancelled=cancelled)


def _layers_of(
    archive: tarfile.TarFile, chains: Mapping[str, str], documents: dict[str, bytes]
) -> Iterator[tuple[str, str, Readable]]:
    """Yield name, diff id ("" if unknown) and tar of each layer; add the JSON files to `documents`."""
    for member in archive:
        content = archive.extractfile(member) if member.isreg() else None
        if content is None:  # folders, and links to a layer elsewhere in the archive
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
        elif opening.startswith(GZIP_MAGIC):  # since 29, engines keep pulled layers compressed
            yield member.name, "", gzip.GzipFile(fileobj=content, mode="rb")
        elif opening.startswith(ZSTD_MAGIC):
            raise BuildError(
                f"{member.name}: the engine stores this layer compressed with zstd, which is not supported",
                hint="use a base image with gzip layers",
            )
        elif member.size <= SMALL:
            documents[str(path)] = content.read()


def _diff_id_of_folder(folder: str, description: bytes | None, chains: Mapping[str, str]) -> str:
    """Return the diff id of a layer in the old layout; "" if its folder does not reveal it.

    Except for the topmost layer, the folder's name is a hash of the chain id and of the `json` file in it
    (without members that the engine adds later), so that a match identifies the layer.
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


def _has_layers(config: bytes, diff_ids: Sequence[str]) -> bool:
    try:
        return bool(json.loads(config)["rootfs"]["diff_ids"] == list(diff_ids))
    except (KeyError, TypeError, ValueError):
        return False


def _config(documents: Mapping[str, bytes], diff_ids: Sequence[str]) -> bytes:
    """Return the config with exactly these layers, found through the export's manifest.json."""
    try:
        for image in json.loads(documents["manifest.json"]):
            config = documents[str(PurePosixPath(image["Config"]))]
            if _has_layers(config, diff_ids):
                return config
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"docker save: cannot read manifest.json or the image config of the export ({error!r})",
            hint="check that the engine is healthy: docker info",
        ) from error
    raise IntegrityError(
        "docker save: no image in the export has the expected layers",
        hint="the image was rebuilt during the export: re-run the command",
    )
