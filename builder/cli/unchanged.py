"""Repeat the output of a `builder build` that found everything built, if nothing has changed since.

Planning takes several times as long as `docker build` with only cached layers, mostly for imports. So a
build that found all its images and receipts writes a record: the call with its folder, environment and
terminal, the state of every file that plans and receipts are read from, the images in the engine, and the
printed text. The same call repeats the text if all of these are the same; otherwise it plans as usual. This
module imports as little as possible.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from builder.adapters.engine import wire

_STARTED = time.time()
_TICK_S = 0.1  # two changes of a file within this time may have the same time stamp
_WHOLE_TICK_S = 2.0  # the same on file systems that keep whole seconds
_SESSION = {"_", "OLDPWD", "SHLVL"}  # environment variables that the shell changes by itself
_MOST_RECORDS = 50


def repeat(argv: list[str]) -> bool:
    """Print the recorded output of `builder build ARGV`; return False if an input of the build changed."""
    try:
        path = _path(argv)
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 (importing pathlib would take a fifth of the time)
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return False
            record = json.load(file)
        if record["files"] != _digest(record["roots"]) or record["images"] != _images(record):
            return False
        stderr, stdout = record["stderr"].encode(), record["stdout"].encode()
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return False
    return _print(2, stderr) and _print(1, stdout)


def record(
    argv: list[str], roots: Iterable[str], references: Iterable[str], socket: str, texts: Mapping[str, str]
) -> None:
    """Record the output of a build, unless an input file was changed a moment ago."""
    entry: dict[str, Any] = {"roots": sorted(roots), "socket": socket, **texts}
    try:
        if any(status and _young(status) for _, status in _states(entry["roots"])):
            return
        entry["images"] = dict.fromkeys(references)
        entry["images"] = _images(entry)
        entry["files"] = _digest(entry["roots"])
        _write(_path(argv), json.dumps(entry))
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return  # the next build plans again


def _young(status: os.stat_result) -> bool:
    """Return True if a file changed so recently that another change could get the same timestamp."""
    tick = _TICK_S if status.st_ctime_ns % 10**9 else _WHOLE_TICK_S
    return status.st_ctime > _STARTED - tick


def _print(number: int, text: bytes) -> bool:
    """Write to stderr or stdout; return False if stdout is closed, an error that a normal build reports."""
    try:
        while text:
            text = text[os.write(number, text) :]
    except OSError:
        return number == 2  # a lost stderr is ignored
    return True


def _path(argv: list[str]) -> str:
    """Return the path of a call's record; its name is a digest of arguments, environment and terminal."""
    named = os.environ.get("BUILDER_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (see above)
    home = named or f"{cache}/image-factory"
    environment = sorted((name, value) for name, value in os.environ.items() if name not in _SESSION)
    streams = [os.isatty(number) and (*os.get_terminal_size(number),) for number in (1, 2)]
    call = repr([argv, os.getcwd(), environment, streams, sys.version, os.geteuid()])  # noqa: PTH109
    name = hashlib.blake2b(call.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return f"{home}/cache/unchanged/{name}.json"


def _digest(roots: Iterable[str]) -> str:
    """Return a digest of the state of all files in `roots`: type, mode, owner, size, inode and times."""
    lines = (f"{path}\0{_shown(status)}" for path, status in _states(roots))
    return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _shown(status: os.stat_result | None) -> str:
    return f"{tuple(status)[:7]} {status.st_mtime_ns} {status.st_ctime_ns}" if status else "absent"


def _states(roots: Iterable[str]) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield (path, status) of each root and of all files below it; the status of a missing root is None.

    Raises ValueError for a symbolic link, whose target could change unnoticed.
    """
    for root in roots:
        try:
            status = os.lstat(root)
        except FileNotFoundError:
            yield root, None
            continue
        yield root, status
        if status.st_mode & 0o170000 == 0o040000:
            yield from _contents(root)


def _contents(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_symlink():
            raise ValueError(f"{entry.path} is a symbolic link")
        if entry.name == "__pycache__":
            continue
        yield entry.path, entry.stat(follow_symlinks=False)
        if entry.is_dir():
            yield from _contents(entry.path)


def _images(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return id and tags of each recorded image, as the engine has them now."""
    found = {}
    for reference in entry["images"]:
        status, body = wire.get(entry["socket"], f"/images/{reference}/json")
        if status != 200:
            raise ValueError(f"no image {reference}")
        image = json.loads(body)
        found[reference] = [image["Id"], sorted(image["RepoTags"] or ())]
    return found


def _write(path: str, text: str) -> None:
    """Write a record, readable for this user only; delete the oldest records if there are too many."""
    folder = os.path.dirname(path)  # noqa: PTH120 (see above)
    os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
    partial = f"{path}.{os.getpid()}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)  # noqa: PTH105
    with os.scandir(folder) as entries:
        ages = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
    for _, old in ages[:-_MOST_RECORDS]:
        os.unlink(old)  # noqa: PTH108
