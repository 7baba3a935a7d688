"""Make the files of a new layer independent of the time of its build.

Runs in build containers with the Python of the image: it imports only the standard library.
"""

import contextlib
import json
import os
import re
import runpy
import stat
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

# Backups, caches and logs of package managers, which contain build times, and SSH keys of one machine.
_TRANSIENT = re.compile(
    r"/etc/(?:group|gshadow|passwd|shadow|subgid|subuid)-"
    r"|/etc/ssh/ssh_host_[^/]*"
    r"|/var/cache/debconf/[^/]*-old"
    r"|/var/cache/ldconfig/aux-cache"
    r"|/var/cache/man/.*"
    r"|/var/lib/dpkg/[^/]*-old"
    r"|/var/log/(?:alternatives|bootstrap|dpkg|fontconfig)\.log"
    r"|/var/log/apt/.*"
)
# Files that an engine adds to the root file system of a container.
_OF_THE_ENGINE = ("/.dockerenv", "/etc/mtab")
_WHITEOUT = ".wh."
_MOST_DELETED = 5  # paths that are reported
_CAPABILITY = "security.capability"


def entries(root: str = "") -> Iterator["os.DirEntry[str]"]:
    """Yield all files and folders below the root, except mount points."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = {line.split()[4].encode().decode("unicode_escape") for line in lines}
    folders = [root]
    while folders:
        with os.scandir(folders.pop() or "/") as found:
            for entry in found:
                if entry.path in points:
                    continue
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def walk(root: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of all files and folders below the root, except mount points."""
    return ((entry.path, entry.stat(follow_symlinks=False)) for entry in entries(root))


def clamp(since: float, epoch: int, root: str = "") -> set[str]:
    """Remove transient files that changed after `since`, and set times later than `epoch` to `epoch`.

    Returns the paths of all files and folders that are left.
    """
    found = dict(walk(root))
    new = {path: status for path, status in found.items() if status.st_ctime >= since}
    removed = [path for path, status in new.items() if is_transient(path, status, root)]
    for path in removed:
        Path(path).unlink()
        del new[path]
    later = {path for path, status in new.items() if status.st_mtime > epoch}
    for path in later | {_parent(path) for path in removed}:
        os.utime(path or "/", (epoch, epoch), follow_symlinks=False)
    return found.keys() - set(removed)


def is_transient(path: str, status: os.stat_result, root: str = "") -> bool:
    return not stat.S_ISDIR(status.st_mode) and bool(_TRANSIENT.fullmatch(path.removeprefix(root)))


def list_files(output: str, root: str = "") -> None:
    """Write a listing with the change time of each file below the root, and mode and owner of each folder."""
    Path(output).write_text(json.dumps({path: _state(status) for path, status in walk(root)}))


def _state(status: os.stat_result) -> list[int]:
    """Return numbers that are equal in two images only if both have a file or folder from the same layer.

    The numbers of a folder include no time, because it changes with the files in the folder.
    """
    if stat.S_ISDIR(status.st_mode):
        return [status.st_mode, status.st_uid, status.st_gid]
    return [status.st_ctime_ns]


def pack(listing: str, epoch: int, output: str, root: str = "") -> None:
    """Write a layer's tar with the files that differ from the listing of the parent image."""
    before: Mapping[str, list[int]] = json.loads(Path(listing).read_text())
    now = dict(walk(root))
    changed, gone = set(), {path for path in before if path not in now}
    for path, status in now.items():
        if before.get(path) == _state(status) or path.removeprefix(root) in _OF_THE_ENGINE:
            continue
        if is_transient(path, status, root):
            gone |= {path} & before.keys()
        else:
            changed.add(path)
    gone = {path for path in gone if _parent(path) not in gone}
    for path in [*changed, *gone]:
        while (path := _parent(path)) != root:
            changed.add(path)
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(changed | gone):
            _add(tar, path, epoch, root, is_gone=path in gone)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _add(tar: tarfile.TarFile, path: str, epoch: int, root: str, *, is_gone: bool) -> None:
    name = path.removeprefix(root).lstrip("/")
    if is_gone:
        tar.addfile(tarfile.TarInfo(str(Path(name).with_name(_WHITEOUT + Path(name).name))))
        return
    member = tar.gettarinfo(path, name)
    if member is None:  # a socket
        return
    member.uname = member.gname = ""
    member.mtime = min(int(member.mtime), epoch)
    with contextlib.suppress(OSError):
        value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
        member.pax_headers = {f"SCHILY.xattr.{_CAPABILITY}": value.decode("utf-8", "surrogateescape")}
    if member.isreg():
        with Path(path).open("rb") as file:
            tar.addfile(member, file)
    else:
        tar.addfile(member)


def play(epoch: int, launcher: str, root: str = "") -> None:
    """Run the Python file `launcher`; if it succeeds, apply `clamp` to the files that changed meanwhile.

    Prints the first few deleted paths as a JSON event, in the format of Ansible's events.
    """
    before = {entry.path for entry in entries(root)}
    since, code = time.time(), None
    try:
        runpy.run_path(launcher, run_name="__main__")
    except SystemExit as end:
        code = end.code
    if not code:
        deleted = before - clamp(since, epoch, root)
        print(json.dumps({"event": "deleted", "paths": sorted(deleted)[:_MOST_DELETED]}))
    sys.exit(code)


def main(action: str, *words: str) -> None:
    """Execute `play EPOCH LAUNCHER [WORD]...`, `list OUTPUT` or `pack LISTING EPOCH OUTPUT`."""
    if action == "play":
        sys.argv = list(words[1:])
        play(int(words[0]), words[1])
    elif action == "list":
        list_files(*words)
    else:
        pack(words[0], int(words[1]), words[2])


def run(*words: str) -> None:
    """Execute `main` and end the process at once: unloading Ansible takes a tenth of a second."""
    try:
        main(*words)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))


if __name__ == "__main__":
    run(*sys.argv[1:])
