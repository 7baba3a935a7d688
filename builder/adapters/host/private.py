"""Folders and files that other users of this machine can neither read nor replace."""

import os
import stat
from pathlib import Path

from builder.errors import MissingError, naming

_PREFIX = "factory-"
_DETACH, _NO_LINKS = 2, 8  # MNT_DETACH, UMOUNT_NOFOLLOW


def make_folder(folder: Path) -> None:
    """Create a folder with mode 0700, or set this mode on an existing folder of this user."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own(folder)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        folder.chmod(0o700)


def require_own(folder: Path) -> None:
    """Raise MissingError if `folder` is a file or belongs to another user, who could replace its content."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        raise MissingError(f"{folder} is not a folder", hint="set BUILDER_HOME to a folder of your own")
    owner = status.st_uid
    if owner not in own_ids():
        raise MissingError(
            f"{folder} belongs to another user (uid {owner})",
            hint="set BUILDER_HOME to a folder of your own, or change the owner of this folder",
        )


def own_ids() -> set[int]:
    """Return the ids of this user, and of the user who called sudo."""
    caller = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    return {os.geteuid(), *({int(caller)} if caller.isdecimal() else ())}


def temporary_folder(link: Path, mode: int = 0o700) -> Path:
    """Return the temporary folder of this user that `link` points to; create it at the first call.

    Its name is unpredictable, so that no other user can create the folder first. With mode 0711, other users
    can open paths in the folder that they know.
    """
    import tempfile

    if not link.is_symlink():
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        folder.chmod(mode)
        link.symlink_to(folder)
    folder = link.readlink()
    if not _is_private(folder):
        raise MissingError(
            f"{folder} was replaced: it is not a folder of uid {os.geteuid()} with mode {mode:04o}",
            hint=f"ls -ld {folder}; build again, with TMPDIR set to a folder of your own",
        )
    return folder


def remove_temporary_folder(link: Path) -> None:
    """Delete the folder that `link` points to, if it is a private folder of this user.

    File systems that a killed program left mounted in it are unmounted; their content is never deleted.
    """
    import shutil

    if link.is_symlink() and (folder := link.readlink()).name.startswith(_PREFIX) and _is_private(folder):
        if mounted := _unmount(folder):
            raise MissingError(
                f"{mounted[0]} is still mounted, so {folder} was not deleted",
                hint=f"sudo umount {mounted[0]}, then: builder clean",
            )
        shutil.rmtree(folder, ignore_errors=True)


def _unmount(folder: Path) -> list[Path]:
    """Unmount all file systems in a folder, the last one first; return those that remain."""
    found = _mounts(folder)
    if not found:
        return []
    import ctypes  # slow to load, and rarely needed

    for path in reversed(found):
        ctypes.CDLL(None).umount2(os.fsencode(path), _DETACH | _NO_LINKS)
    return _mounts(folder)


def _mounts(folder: Path) -> list[Path]:
    """Return the mount points in a folder, in the order of mounting."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    paths = (line.split(b" ")[4].decode("unicode_escape").encode("latin-1") for line in lines)
    return [path for path in map(Path, map(os.fsdecode, paths)) if path.is_relative_to(folder.resolve())]


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and stat.S_IMODE(status.st_mode) in (0o700, 0o711)
    )


def write(path: Path, text: str) -> None:
    """Write a file with mode 0600; replaces the content and the mode of an existing file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with naming(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
