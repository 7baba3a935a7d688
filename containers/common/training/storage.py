"""Files of the user's data: on a local or mounted file system, or in S3.

An object is copied once per node to the cache folder, because token files are memory-mapped.
"""

import fcntl
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.errors import DataError, StorageError


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """Data file: name for messages, size and path; an S3 object has a version instead of a path."""

    name: str
    size: int
    path: Path | None = None
    version: str = ""

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def fetched(self, cache: Path) -> Path:
        """Return the local path; copy the object to the cache first if it is in S3."""
        return self.path or _copy(self, cache)


def find_files(sources: Iterable[str], suffixes: Iterable[str]) -> list[DataFile]:
    """Return the files with these suffixes at paths, in folders and below S3 prefixes, sorted by name."""
    wanted = tuple(suffixes)
    found = list[DataFile]()
    for source in sources:
        files = sorted(_list(source, wanted), key=lambda file: file.name)
        if not files:
            raise DataError(f"{source}: no file named *{', *'.join(wanted)}")
        found += files
    return found


def _list(source: str, suffixes: tuple[str, ...]) -> Iterator[DataFile]:
    if source.startswith("s3://"):
        yield from _objects(source, suffixes)
        return
    root = Path(source)
    if not root.exists():
        raise DataError(f"{source}: no such file or folder on this node")
    for path in root.rglob("*") if root.is_dir() else [root]:
        if path.name.endswith(suffixes) and path.is_file():
            yield DataFile(name=str(path), size=path.stat().st_size, path=path)


def _split(name: str) -> tuple[str, str]:
    bucket, _, key = name.removeprefix("s3://").partition("/")
    return bucket, key


@contextmanager
def _s3_errors(name: str) -> Iterator[None]:
    # Imported late: other sources need no boto3.
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise DataError(f"{name}: {error}") from error


def _objects(source: str, suffixes: tuple[str, ...]) -> Iterator[DataFile]:
    import boto3

    bucket, prefix = _split(source)
    with _s3_errors(source):
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", []):
                if entry["Key"].endswith(suffixes):
                    name = f"s3://{bucket}/{entry['Key']}"
                    yield DataFile(name=name, size=entry["Size"], version=entry["ETag"])


def _copy(file: DataFile, cache: Path) -> Path:
    """Copy an object to the cache unless it is there; ranks of a node wait for the first to finish."""
    import boto3

    folder = cache / hashlib.sha256(f"{file.name} {file.version}".encode()).hexdigest()[:16]
    path = folder / Path(file.name).name
    partial = path.with_name(f"{path.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                bucket, key = _split(file.name)
                with _s3_errors(file.name):
                    boto3.client("s3").download_file(bucket, key, str(partial))
                partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path}: {error.strerror}; set --cache-dir to a folder with space") from error
    return path
