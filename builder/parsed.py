"""Keep parsed files in one cache file, so that a command parses only files that have changed.

An entry holds for one state of its file: type, size, inode and times. A file that was changed just before it
was read gets no entry, because it may change again within a tick of the clock. A cache that is damaged, of
another user or of another version of this code is ignored and replaced. Knows no file formats.
"""

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

Table = Mapping[str, Any]

_SETTLED_NS = 3 * 10**9  # coarse file systems have ticks of 2 s
_LARGEST = 64 << 20  # bytes of the cache file
_MOST_CACHES = 20  # one for each repository
# Modules whose code determines how a file is parsed.
_CODE = ("parsed.py", "patterns.py", "reading.py", "tables.py")


class ParsedFiles:
    """Cache of the parsed files of a repository; without a path, nothing is cached."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._files: dict[str, Any] = {}
        self._code = _code() if path else None
        self._has_news = False
        if path:
            with suppress(OSError, RecursionError, TypeError, ValueError):
                self._files = _read(path, self._code)

    def table(self, path: Path, read: Callable[[], Table | None]) -> Table | None:
        """Return the table of a file from the cache, or else the result of `read`."""
        if self._path is None:
            return read()
        name, started, state = str(path), time.time_ns(), _state(str(path))
        if state is None:
            return read()
        match self._files.get(name):
            case [kept, dict(table)] if kept == state:
                return table
        found = read()
        is_settled = max(state[-2:]) < started - _SETTLED_NS
        if found is not None and is_settled and state == _state(name):
            self._files[name] = [state, found]
            self._has_news = True
        return found

    def save(self) -> None:
        """Write new entries to the cache file; a file that cannot be written is left as it is."""
        if self._path is None or not self._has_news:
            return
        self._has_news = False
        self._files = {name: entry for name, entry in self._files.items() if os.path.lexists(name)}
        with suppress(OSError, RecursionError, TypeError, ValueError):
            text = json.dumps({"code": self._code, "files": self._files})
            _write(self._path, f"{zlib.crc32(text.encode()):08x}\n{text}")


def _state(path: str) -> list[int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    where = [status.st_mode, status.st_size, status.st_dev, status.st_ino]
    return [*where, status.st_mtime_ns, status.st_ctime_ns]


def _code() -> list[Any]:
    """Return the versions of Python and of the modules whose code determines how a file is parsed."""
    folder = os.path.dirname(__file__)  # noqa: PTH120 (Path takes a tenth of the time that the cache saves)
    return [sys.version, *(_state(f"{folder}/{name}") for name in _CODE)]


def _read(path: Path, code: object) -> dict[str, Any]:
    """Return a cache file's entries; raise ValueError if another user or other code wrote the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077 or status.st_size > _LARGEST:
            raise ValueError("another user could have written the cache")
        digest, _, text = file.read().partition(b"\n")
    if digest.decode("ascii") != f"{zlib.crc32(text):08x}":
        raise ValueError("the cache is damaged")
    table = json.loads(text)
    if table["code"] != code:
        raise ValueError("another version of the code wrote the cache")
    return dict(table["files"])


def _write(path: Path, text: str) -> None:
    """Write a cache file atomically, readable by this user only; delete the oldest if there are too many."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    ages = sorted((file.stat().st_mtime, file) for file in path.parent.iterdir())
    for _, old in ages[:-_MOST_CACHES]:
        old.unlink(missing_ok=True)
