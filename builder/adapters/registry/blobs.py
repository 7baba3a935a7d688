"""Keep compressed layers and image configurations in a folder.

A layer is looked up by its diff id (the sha256 of its tar) and stored under the digest of its compressed
form. That pair is the truth: it is never recomputed, since another compressor gives other bytes.
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
LEVEL = 1  # of igzip: within 2 % of level 2's size, and gzip -1's ratio at four times its speed
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Readable(Protocol):
    """What a layer is read from."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBlob:
    """A layer in its compressed form, ready to be pushed."""

    diff_id: str
    digest: str
    size_bytes: int
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBlob:
    """A blob in the store, when it was used last, and the diff ids and image ids that it serves."""

    digest: str
    size_bytes: int
    used: float
    serves: frozenset[str]


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class BlobStore:
    """Compressed layers and image configs in a folder; safe to share between threads and processes.

    `sha256/<hex>` holds bytes by their own digest, `layers/<hex>` names the blob of a diff id,
    `configs/<hex>` the config of an image id. Writers hold a shared lock, so `partial/` may be swept
    by whoever can take the lock alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partial = folder / "partial"
        for name in ("sha256", "layers", "configs", "partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._sweep()

    def find(self, diff_id: str) -> LayerBlob | None:
        """The stored layer; an entry whose bytes are not all there is dropped, to be made again."""
        record = self._record("layers", diff_id)
        if record is None:
            return None
        digest, size = record.get("digest"), record.get("size_bytes")
        if isinstance(digest, str) and DIGEST.fullmatch(digest) and isinstance(size, int):
            path = self._blob(digest)
            with suppress(FileNotFoundError):
                if path.stat().st_size == size:
                    os.utime(path)  # the time of its last use, by which blobs are removed
                    return LayerBlob(diff_id=diff_id, digest=digest, size_bytes=size, path=path)
            path.unlink(missing_ok=True)
        self._entry("layers", diff_id).unlink(missing_ok=True)
        return None

    def add(self, diff_id: str, tar: Readable, *, cancelled: threading.Event | None = None) -> LayerBlob:
        """Compress a layer's tar, unless it is stored already."""
        if found := self.find(diff_id):
            return found
        return self._compress(tar, lambda real: real == diff_id, f"layer {diff_id}", cancelled)

    def add_any(
        self, wanted: Collection[str], tar: Readable, *, name: str, cancelled: threading.Event | None = None
    ) -> LayerBlob:
        """Compress a layer whose diff id is known only once it is read; it must be one of those wanted."""
        return self._compress(tar, lambda real: real in wanted, name, cancelled)

    def add_config(self, image_id: str, config: bytes) -> None:
        """Keep an image's config byte for byte: the engine gives it only inside an export."""
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
        """Nothing is removed from the store until the block ends."""
        with self._locked(fcntl.LOCK_SH):
            yield

    def unneeded(
        self, needed: Collection[str], *, before: float, max_bytes: int | None
    ) -> dict[str, list[StoredBlob]]:
        """The blobs that can go, by reason, least recently used first.

        They serve none of the diff ids and image ids in `needed` and were last used `before` that time; if
        those that stay still take more than `max_bytes`, others follow.
        """
        found: dict[str, list[StoredBlob]] = {}
        stored = sorted(self._stored(), key=lambda blob: (blob.used, blob.digest))
        left = sum(blob.size_bytes for blob in stored)
        kept = []
        for blob in stored:
            if blob.serves.isdisjoint(needed) and blob.used < before:
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
        serves: dict[str, set[str]] = {}
        for kind in ("layers", "configs"):
            for entry in (self.folder / kind).iterdir():
                identifier = f"sha256:{entry.name}"
                record = self._record(kind, identifier) or {}
                serves.setdefault(str(record.get("digest")), set()).add(identifier)
        for path in (self.folder / "sha256").iterdir():
            digest, status = f"sha256:{path.name}", path.stat()
            yield StoredBlob(
                digest=digest,
                size_bytes=status.st_size,
                used=status.st_mtime,
                serves=frozenset(serves.get(digest, ())),
            )

    def remove(self, digests: Collection[str]) -> None:
        """Remove blobs, and the records that lead to them or to none; raises if the store is in use."""
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
                f"{self.folder}: compressed layers are in use, none was removed",
                hint="run builder clean again when the push is over",
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
                        raise Interrupted(
                            f"{name}: compression was interrupted", hint="run the command again"
                        )
                    plain.update(chunk)
                    packer.write(chunk)
            diff_id = f"sha256:{plain.hexdigest()}"
            if not accept(diff_id):
                raise IntegrityError(
                    f"{name}: the engine delivered diff id {diff_id}, which the image does not name",
                    hint="the engine's storage is damaged or the image changed meanwhile: build it again",
                )
            digest = f"sha256:{hashed.sha256.hexdigest()}"
            self._keep(partial, self._blob(digest))
        self._write_record("layers", diff_id, {"digest": digest, "size_bytes": hashed.size})
        return LayerBlob(diff_id=diff_id, digest=digest, size_bytes=hashed.size, path=self._blob(digest))

    def _sweep(self) -> None:
        """Remove what killed writers left behind, unless somebody is writing now."""
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
        """A new file that disappears unless it is kept."""
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
        Path(partial.name).rename(path)

    def _blob(self, digest: str) -> Path:
        return self.folder / "sha256" / digest.removeprefix("sha256:")

    def _entry(self, kind: str, identifier: str) -> Path:
        if not DIGEST.fullmatch(identifier):
            raise IntegrityError(
                f"{identifier!r} is no sha256 identifier",
                hint="image and layer ids read like sha256:<64 hex digits>, see: docker image inspect IMAGE",
            )
        return self.folder / kind / identifier.removeprefix("sha256:")

    def _record(self, kind: str, identifier: str) -> Mapping[str, object] | None:
        try:
            record = json.loads(self._entry(kind, identifier).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def _write_record(self, kind: str, identifier: str, record: Mapping[str, object]) -> None:
        with self._writing() as partial:
            partial.write(json.dumps(record).encode())
            self._keep(partial, self._entry(kind, identifier))


class _HashedFile:
    """Writes through to a file and remembers digest and size of what went by."""

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
    """zlib in the clothes of a file, for machines that ISA-L has no wheel for."""

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
    """A gzip stream without time or name; two threads pack while the caller reads and hashes."""
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
