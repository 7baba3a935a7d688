"""Share apt's downloaded packages and lists between build containers, through copies of a common store.

Each container has its own folders because apt locks its package cache and rewrites its lists. A container can
write any file there, and apt checks only the size of cached packages and does not check cached lists. The
store therefore accepts only lists and packages that the package archive has signed, and verifies copies.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from builder.adapters.ansible import signed
from builder.adapters.engine.client import Bind
from builder.adapters.host.workspace import Run, write_atomically

_TARGETS = {"archives": "/var/cache/apt", "lists": "/var/lib/apt/lists"}
_RELEASE = "_InRelease"
_LIST_LIMIT = 512 << 20
_CHUNK = 1 << 20


def mounts(store: Path, scratch: Path) -> list[Bind]:
    """Create a container's folders below `scratch` with verified copies of the store; return their mounts.

    Omits packages whose digests do not match, and all lists if one does not match; apt downloads them again.
    """
    binds = []
    for name, target in _TARGETS.items():
        folder = _folder(scratch, name)
        folder.mkdir(parents=True)
        (folder / "partial").mkdir()
        digests = _digests(store, name)
        sources, copies = ([parent / file for file in digests] for parent in (store / name, folder))
        with ThreadPoolExecutor(max_workers=2) as pool:  # most of the time is spent on digests
            found = pool.map(_copy, sources, copies)
        wrong = [file for file, digest in zip(digests, found, strict=True) if digest != digests[file]]
        for file in digests if wrong and name == "lists" else wrong:
            (folder / file).unlink(missing_ok=True)
            (store / name / file).unlink(missing_ok=True)
        if wrong and name == "lists":
            (store / "lists.json").unlink(missing_ok=True)
        # apt takes the age of its lists from the mtime of the folder; with mtime 0, apt fetches new lists.
        complete = name == "lists" and digests and not wrong
        stamp = (store / name).stat().st_mtime if complete else 0
        os.utime(folder, (stamp, stamp))
        binds.append(Bind(source=str(scratch / name), target=target, writable=True))
    return binds


def keep(run: Run, store: Path, scratch: Path, keyrings: Path = signed.KEYRINGS) -> None:
    """Copy a container's downloads into the store if the package archive has signed them."""
    keys = signed.keyrings(keyrings)
    folder = _folder(scratch, "lists")
    with run.locked(f"apt-{store.name}"):
        if not _new_packages(store, _folder(scratch, "archives")) and _has_releases(store, folder):
            return
        lists = _signed_lists(folder, scratch, keys)
        _keep_packages(store, _folder(scratch, "archives"), lists)
        # Keep only complete lists: apt would not notice that the lists of one repository are missing.
        is_complete = all(name in lists for name in _releases(folder))
        if lists and is_complete and _is_newer(store, lists, scratch, keys):
            stamp = min(folder.stat().st_mtime, time.time())
            _write(store, "lists", lists)
            os.utime(store / "lists", (stamp, stamp))


def _keep_packages(store: Path, folder: Path, lists: Mapping[str, bytes]) -> None:
    known = _digests(store, "archives")
    temporary = store / ".new"
    (store / "archives").mkdir(parents=True, exist_ok=True)
    for file in _new_packages(store, folder):
        digest = _copy(folder / file, temporary)
        if digest and signed.names_of([digest], lists.values()).get(digest) == file:
            temporary.replace(store / "archives" / file)
            known[file] = digest
    temporary.unlink(missing_ok=True)
    write_atomically(store / "archives.json", json.dumps(known))


def _new_packages(store: Path, folder: Path) -> list[str]:
    """Return the packages of a container that the store lacks, or has with another size."""
    known, kept = _digests(store, "archives"), store / "archives"
    names = sorted(path.name for path in folder.glob("*.deb"))
    return [name for name in names if name not in known or _size(folder / name) != _size(kept / name)]


def _has_releases(store: Path, folder: Path) -> bool:
    """True if the store's lists have the same InRelease files as a container's."""
    names, kept = _releases(folder), store / "lists"
    known = [name for name in _digests(store, "lists") if name.endswith(_RELEASE)]
    return sorted(known) == names and all(_read(folder / name) == _read(kept / name) for name in names)


def _releases(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{_RELEASE}"))


def _signed_lists(folder: Path, scratch: Path, keys: list[Path]) -> dict[str, bytes]:
    """Return the InRelease files signed by a key of this machine's keyrings, and the lists that they name."""
    found: dict[str, bytes] = {}
    for file in _releases(folder):
        content = _read(folder / file)
        release = signed.read_release(content, file, scratch, keys) if content else None
        if content is None or release is None:
            continue
        found[file] = content
        for name, digest in release.lists.items():
            text = _read(folder / name)
            if text is not None and signed.digest(text) == digest:
                found[name] = text
    return found


def _is_newer(store: Path, lists: Mapping[str, bytes], scratch: Path, keys: list[Path]) -> bool:
    """True unless the store has newer lists of an archive, or a list that is missing in `lists`."""
    kept_names = _digests(store, "lists")
    if not set(kept_names) <= set(lists):
        return not kept_names
    for name in kept_names:
        if name.endswith(_RELEASE) and (kept := _read(store / "lists" / name)):
            before = signed.read_release(kept, name, scratch, keys)
            now = signed.read_release(lists[name], name, scratch, keys) if name in lists else None
            if before and (now is None or now.date < before.date):
                return False
    return True


def _write(store: Path, name: str, files: Mapping[str, bytes]) -> None:
    (store / f"{name}.json").unlink(missing_ok=True)
    (store / name).mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        temporary = store / ".new"
        temporary.write_bytes(content)
        temporary.replace(store / name / file)
    digests = {file: signed.digest(content) for file, content in files.items()}
    write_atomically(store / f"{name}.json", json.dumps(digests))


def _digests(store: Path, name: str) -> dict[str, str]:
    """Return the digest of each file in a folder of the store; empty if the record is absent or damaged."""
    with suppress(OSError, ValueError):
        found = json.loads((store / f"{name}.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {file: str(digest) for file, digest in found.items() if file == Path(file).name}
    return {}


def _size(file: Path) -> int:
    """Return the size of a file itself, not of the target of a link; -1 if it does not exist."""
    return file.lstat().st_size if os.path.lexists(file) else -1


def _folder(scratch: Path, name: str) -> Path:
    return scratch / name / "archives" if name == "archives" else scratch / name


def _chunks(file: Path) -> Iterator[bytes]:
    """Yield the content of a regular file; raise OSError for links and devices."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{file} is not a regular file")
        while chunk := opened.read(_CHUNK):
            yield chunk


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return the digest of the copy; "" if there is no regular file."""
    computed = hashlib.sha256()
    try:
        with target.open("wb") as output:
            for chunk in _chunks(source):
                computed.update(chunk)
                output.write(chunk)
    except OSError:
        return ""
    return computed.hexdigest()


def _read(file: Path) -> bytes | None:
    content = bytearray()
    try:
        for chunk in _chunks(file):
            content += chunk
            if len(content) > _LIST_LIMIT:
                return None
    except OSError:
        return None
    return bytes(content)
