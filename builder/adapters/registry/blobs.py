"""Store compressed layers and image configs in a folder.

A layer is looked up by its diff id (the sha256 of its tar) and stored under the digest of its compressed
form. The digest pair is recorded and never recomputed, because another compressor would produce other bytes.
Knows gzip; must not know registries or the engine.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from builder.errors import FactoryError, IntegrityError, Interrupted, PublishError

CHUNK = 1 << 20
LEVEL = 1  # igzip: within 2 % of the size at level 2; compresses like gzip -1 at four times its speed
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Readable(Protocol):
    """Source that a layer is read from."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBlob:
    """Compressed layer, ready to push."""

    diff_id: str
    digest: str
    size_bytes: int
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBlob:
    """Blob in the store, with the time of its last use and the diff ids and image ids recorded for it."""

    digest: str
    size_bytes: int
    used: float
    ids: frozenset[str]


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class BlobStore:
    """Store of compressed layers and image configs; threads and processes may share it.

    `sha256/<hex>` holds blobs by digest. The records `layers/<hex>` and `configs/<hex>` name the blob of a
    diff id or of an image id, with a checksum; a record that does not match its checksum is ignored. Writers
    hold a shared lock; clearing `partial/` takes the exclusive lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partial = folder / "partial"
        for name in ("sha256", "layers", "configs", "partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._sweep()

    def find(self, diff_id: str) -> LayerBlob | None:
        """Return the stored layer, or None; delete a record whose blob is missing or incomplete."""
        record = self._record("layers", diff_id)
        if record is None:
            return None
        digest, size = record.get("digest"), record.get("size_bytes")
        if isinstance(digest, str) and DIGEST.fullmatch(digest) and isinstance(size, int):
            path = self._blob(digest)
            with suppress(FileNotFoundError):
                if path.stat().st_size == size:
                    os.utime(path)  # the last use decides which blobs are removed first
                    return LayerBlob(diff_id=diff_id, digest=digest, size_bytes=size, path=path)
            path.unlink(missing_ok=True)
        self._entry("layers", diff_id).unlink(missing_ok=True)
        return None

    def add(self, diff_id: str, tar: Readable, *, cancelled: threading.Event | None = None) -> LayerBlob:
        """Return the stored layer with this diff id; compress and store it from `tar` if it is missing."""
        if found := self.find(diff_id):
            return found
        return self._compress(tar, lambda real: real == diff_id, f"layer {diff_id}", cancelled)

    def add_any(
        self, wanted: Collection[str], tar: Readable, *, name: str, cancelled: threading.Event | None = None
    ) -> LayerBlob:
        """Compress and store a layer; raise IntegrityError if its diff id is not in `wanted`."""
        return self._compress(tar, lambda real: real in wanted, name, cancelled)

    def add_config(self, image_id: str, config: bytes) -> None:
        """Store the exact bytes of an image's config, which the engine returns only inside an export."""
        with self._writing() as partial:
            partial.write(config)
            self._keep(partial, self._blob(sha256(config)))
        self._write_record("configs", image_id, {"digest": sha256(config)})

    def config(self, image_id: str) -> bytes | None:
        record = self._record("configs", image_id)
        digest = record.get("digest") if record else None
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            return None
        try:
            config = self._blob(digest).read_bytes()
            os.utime(self._blob(digest))
        except FileNotFoundError:
            return None
        return config if sha256(config) == digest else None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Prevent removals from the store until the block ends."""
        with self._locked(fcntl.LOCK_SH):
            yield

    def unneeded(
        self, needed: Collection[str], *, before: float, max_bytes: int | None
    ) -> dict[str, list[StoredBlob]]:
        """Return the blobs that can be removed, by reason, least recently used first.

        First, blobs that were last used before the time `before` and have no diff id or image id in `needed`.
        Second, the least recently used other blobs, until the remaining blobs fit in `max_bytes`.
        """
        found: dict[str, list[StoredBlob]] = {}
        stored = sorted(self._stored(), key=lambda blob: (blob.used, blob.digest))
        left = sum(blob.size_bytes for blob in stored)
        kept = []
        for blob in stored:
            if blob.ids.isdisjoint(needed) and blob.used < before:
                found.setdefault("no image in the engine has them", []).append(blob)
                left -= blob.size_bytes
            else:
                kept.append(blob)
        for blob in kept:
            if max_bytes is None or left <= max_bytes:
                break
            found.setdefault("least recently used, above --max-size", []).append(blob)
            left -= blob.size_bytes
        return found

    def _stored(self) -> Iterator[StoredBlob]:
        ids: dict[str, set[str]] = {}
        for kind in ("layers", "configs"):
            for entry in (self.folder / kind).iterdir():
                identifier = f"sha256:{entry.name}"
                record = self._record(kind, identifier) or {}
                ids.setdefault(str(record.get("digest")), set()).add(identifier)
        for path in (self.folder / "sha256").iterdir():
            digest, status = f"sha256:{path.name}", path.stat()
            yield StoredBlob(
                digest=digest,
                size_bytes=status.st_size,
                used=status.st_mtime,
                ids=frozenset(ids.get(digest, ())),
            )

    def remove(self, digests: Collection[str]) -> None:
        """Delete blobs and all records whose blob is missing; raise FactoryError if the store is in use."""
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                for digest in digests:
                    self._blob(digest).unlink(missing_ok=True)
                for kind in ("layers", "configs"):
                    for entry in (self.folder / kind).iterdir():
                        record = self._record(kind, f"sha256:{entry.name}") or {}
                        if not self._blob(str(record.get("digest"))).exists():
                            entry.unlink()
        except BlockingIOError as error:
            raise FactoryError(
                f"{self.folder}: compressed layers are in use, so none was removed",
                hint="wait for the push to end, then run: builder clean",
            ) from error

    def _compress(
        self, tar: Readable, accept: Callable[[str], bool], name: str, cancelled: threading.Event | None
    ) -> LayerBlob:
        plain = hashlib.sha256()
        with self._writing() as partial:
            hashed = _HashedFile(partial)
            with _gzip(hashed) as packer:
                while chunk := tar.read(CHUNK):
                    if cancelled is not None and cancelled.is_set():
                        raise Interrupted(f"{name}: compression interrupted", hint="re-run the command")
                    plain.update(chunk)
                    packer.write(chunk)
            diff_id = f"sha256:{plain.hexdigest()}"
            if not accept(diff_id):
                raise IntegrityError(
                    f"{name}: the engine delivered diff id {diff_id}, which is not a layer of the image",
                    hint="build again if the image was rebuilt meanwhile; else the engine's storage is"
                    " damaged: builder clean --all --yes",
                )
            digest = f"sha256:{hashed.sha256.hexdigest()}"
            self._keep(partial, self._blob(digest))
        self._write_record("layers", diff_id, {"digest": digest, "size_bytes": hashed.size})
        return LayerBlob(diff_id=diff_id, digest=digest, size_bytes=hashed.size, path=self._blob(digest))

    def _sweep(self) -> None:
        """Delete the partial files of killed writers, unless the store is in use."""
        with suppress(BlockingIOError), self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for path in self._partial.iterdir():
                path.unlink()

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, operation)
            yield

    @contextmanager
    def _writing(self) -> Iterator[IO[bytes]]:
        """Yield a new temporary file; delete it at the end of the block unless `_keep` renamed it."""
        with (
            self._locked(fcntl.LOCK_SH),
            tempfile.NamedTemporaryFile(dir=self._partial, delete=False) as partial,
        ):
            try:
                yield partial
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise PublishError(
                    f"{self.folder}: no space left for compressed layers", hint=f"df -h {self.folder}"
                ) from error
            finally:
                Path(partial.name).unlink(missing_ok=True)

    def _keep(self, partial: IO[bytes], path: Path) -> None:
        partial.flush()
        os.fchmod(partial.fileno(), 0o644)
        os.fsync(partial.fileno())  # else a loss of power can leave a record whose blob is empty
        Path(partial.name).rename(path)

    def _blob(self, digest: str) -> Path:
        return self.folder / "sha256" / digest.removeprefix("sha256:")

    def _entry(self, kind: str, identifier: str) -> Path:
        if not DIGEST.fullmatch(identifier):
            raise IntegrityError(
                f"{identifier!r} is not a sha256 identifier",
                hint="expected sha256:<64 hex digits>, as shown by: docker image inspect IMAGE",
            )
        return self.folder / kind / identifier.removeprefix("sha256:")

    def _record(self, kind: str, identifier: str) -> Mapping[str, object] | None:
        try:
            record = json.loads(self._entry(kind, identifier).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(record, dict) or record.pop("sum", "") != _sum(kind, identifier, record):
            return None
        return record

    def _write_record(self, kind: str, identifier: str, record: Mapping[str, object]) -> None:
        with self._writing() as partial:
            partial.write(json.dumps({**record, "sum": _sum(kind, identifier, record)}).encode())
            self._keep(partial, self._entry(kind, identifier))


def _sum(kind: str, identifier: str, record: Mapping[str, object]) -> str:
    """Return the checksum of a record and its name, so that a record moved to another name is ignored."""
    return sha256(json.dumps([kind, identifier, record], sort_keys=True).encode())


class _HashedFile:
    """File wrapper that computes digest and size of the bytes written through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> int:
        self.sha256.update(chunk)
        self.size += len(chunk)
        return self._file.write(chunk)

    def flush(self) -> None:
        self._file.flush()


class _Packer(Protocol):
    def write(self, chunk: bytes, /) -> int: ...


class _ZlibPacker:
    """Gzip compressor with a file interface, for machines without an ISA-L wheel."""

    def __init__(self, sink: _HashedFile) -> None:
        self._sink = sink
        self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # gzip frame, mtime 0

    def write(self, chunk: bytes) -> int:
        self._sink.write(self._deflate.compress(chunk))
        return len(chunk)

    def finish(self) -> None:
        self._sink.write(self._deflate.flush())


@contextmanager
def _gzip(sink: _HashedFile) -> Iterator[_Packer]:
    """Yield a gzip writer that records no time or name; with ISA-L, two threads compress."""
    try:
        from isal import igzip_threaded
    except ImportError:
        packer = _ZlibPacker(sink)
        yield packer
        packer.finish()
        return
    with igzip_threaded.open(  # type: ignore[no-untyped-call]
        sink, "wb", compresslevel=LEVEL, threads=2, block_size=CHUNK
    ) as packer:
        yield packer
