"""Read layers and configs of images directly from the engine's storage, without `docker save`.

`docker save` writes an image to a temporary folder before it sends the first byte, which takes most of the
time of a push. The storage is readable only for root, on the engine's machine, and with the driver overlay2.
Functions raise StorageError where it is not readable; the caller then exports the image.

The formats belong to the engine and may change, so callers compare the digest of what they read.
"""

import base64
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_FILE, _BYTES = 1, 2  # types of entries in tar-split.json.gz
DRIVER = "overlay2"
_MOST = 4 << 20  # bytes of a config
_CHUNK = 1 << 20


class StorageError(Exception):
    """The engine's storage does not have a layer in the expected form."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Storage of an engine below its root folder."""

    root: Path

    def config(self, image_id: str) -> bytes:
        """Return the config of an image, whose digest is the image id."""
        try:
            with (self._images / "imagedb/content/sha256" / _hex(image_id)).open("rb") as file:
                content = file.read(_MOST)
        except OSError as error:
            raise StorageError(str(error)) from error
        if hashlib.sha256(content).hexdigest() != _hex(image_id):
            raise StorageError(f"the config of image {image_id} has another digest")
        return content

    @contextmanager
    def open_layer(self, diff_ids: Sequence[str]) -> Iterator["LayerTar"]:
        """Yield the tar of the last of these layers, each of which lies on the one before it."""
        folder = self._images / "layerdb/sha256" / _hex(chain_ids(diff_ids)[-1])
        with ExitStack() as opened:
            try:
                name = (folder / "cache-id").read_text()
                files = os.open(self.root / DRIVER / _hex(name) / "diff", os.O_RDONLY | os.O_DIRECTORY)
                opened.callback(os.close, files)
                entries = opened.enter_context(gzip.open(folder / "tar-split.json.gz"))
            except (OSError, ValueError) as error:
                raise StorageError(str(error)) from error
            yield LayerTar(entries, files)

    @property
    def _images(self) -> Path:
        return self.root / "image" / DRIVER


class LayerTar:
    """Tar of a layer, put together from the engine's record of its headers and from the layer's files."""

    def __init__(self, entries: Iterable[bytes], files: int) -> None:
        self._pieces = _pieces(entries, files)
        self._rest = bytearray()

    def read(self, size: int = -1, /) -> bytes:
        while size < 0 or len(self._rest) < size:
            try:
                piece = next(self._pieces, None)
            except (OSError, EOFError, zlib.error) as error:
                raise StorageError(str(error)) from error
            if piece is None:
                break
            self._rest += piece
        if size < 0:
            size = len(self._rest)
        taken = bytes(memoryview(self._rest)[:size])
        del self._rest[:size]
        return taken


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Return the chain id of each layer, which identifies it together with all layers below it."""
    chains = list(diff_ids[:1])
    for diff_id in diff_ids[1:]:
        chains.append(f"sha256:{hashlib.sha256(f'{chains[-1]} {diff_id}'.encode()).hexdigest()}")
    return chains


def _pieces(entries: Iterable[bytes], files: int) -> Iterator[bytes]:
    for line in entries:
        try:
            entry = json.loads(line)
            kind, size = entry["type"], entry.get("size", 0)
            if kind == _BYTES:
                yield base64.b64decode(entry["payload"])
            elif kind == _FILE and size:
                encoded = entry.get("name_raw")
                name = base64.b64decode(encoded) if encoded else entry["name"].encode()
                yield from _content(name, size, files)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(f"unknown entry in tar-split.json.gz: {error!r}") from error


def _content(name: bytes, size: int, files: int) -> Iterator[bytes]:
    file = os.open(name.lstrip(b"/"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=files)
    try:
        while size and (chunk := os.read(file, min(size, _CHUNK))):
            size -= len(chunk)
            yield chunk
    finally:
        os.close(file)


def _hex(identifier: str) -> str:
    """Return the hexadecimal digits of an identifier; raise StorageError if it has another form."""
    digits = identifier.strip().removeprefix("sha256:")
    if len(digits) != len(hashlib.sha256().hexdigest()) or not set(digits) <= set("0123456789abcdef"):
        raise StorageError(f"{identifier[:80]!r} is no identifier of the engine")
    return digits
