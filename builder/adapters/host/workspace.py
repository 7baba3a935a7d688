"""The factory's folders and locks on this machine, and the life of one run in them.

A run holds a lock for as long as its process lives, so that a later run can tell the dead from the living
without asking for process ids, and may then remove what the dead one left.
"""

import fcntl
import hashlib
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from builder.adapters.host import process
from builder.errors import Interrupted, MissingError
from builder.wait import until

_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """Where caches live (`home`, shared by all checkouts of a user) and where results go (`out`)."""

    home: Path
    out: Path

    @property
    def scratch(self) -> Path:
        return self.home / "scratch"

    @property
    def checkout(self) -> str:
        """A name for the checkout that tells nothing of where it lies."""
        return hashlib.sha256(str(self.out).encode()).hexdigest()[:12]

    def cache(self, *parts: str) -> Path:
        folder = self.home.joinpath("cache", *parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def find_workspace(root: Path) -> Workspace:
    home = os.environ.get("BUILDER_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Workspace(home=Path(home).absolute() if home else cache / "image-factory", out=root / "out")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a command: its name, its folders, and whether it has been told to stop."""

    name: str
    workspace: Workspace
    folder: Path
    scratch: Path
    cancelled: threading.Event = field(default_factory=threading.Event)
    # Set when the engine could not be cleared: the scratch folder then stays, as the mark of a dead run.
    keep_scratch: threading.Event = field(default_factory=threading.Event)

    @property
    def socket_dir(self) -> Path:
        """A folder of the run with a path short enough for sockets in it; made by who needs it."""
        return _socket_dir(self.name)

    def stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Interrupted("interrupted")

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Holds the machine-wide lock `name`; yields whether another run held it first."""
        with locked(self.workspace, name, cancelled=self.cancelled) as waited:
            yield waited


@contextmanager
def locked(workspace: Workspace, name: str, *, cancelled: threading.Event | None = None) -> Iterator[bool]:
    """Holds a lock that all processes of this home see; it falls when the process ends, however it ends."""
    folder = workspace.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        waited = not _try_lock(file.fileno())
        if waited:
            is_mine = partial(_try_lock, file.fileno())
            until(is_mine, timeout_s=math.inf, every_s=_POLL_S, cancelled=cancelled)
        yield waited


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def open_run(workspace: Workspace, label: str, *, cancelled: threading.Event | None = None) -> Iterator[Run]:
    """A run whose scratch folder is gone when the block ends, however it ends."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{os.urandom(3).hex()}"
    scratch = workspace.scratch / name
    folder = workspace.out / "runs" / name
    try:
        scratch.mkdir(parents=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise MissingError(
            f"cannot write to {error.filename}: {error.strerror}",
            hint="make it writable, or set BUILDER_HOME to a folder that is",
        ) from error
    with (scratch / "alive").open("w") as alive:
        _try_lock(alive.fileno())
        run = Run(
            name=name,
            workspace=workspace,
            folder=folder,
            scratch=scratch,
            cancelled=cancelled or threading.Event(),
        )
        try:
            yield run
        finally:
            if not run.keep_scratch.is_set():
                forget_run(workspace, name)


def _socket_dir(name: str) -> Path:
    """Below the system's folder for temporary files: the path of a socket has 107 bytes at most."""
    import tempfile

    return Path(tempfile.gettempdir()) / f"factory-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def dead_runs(workspace: Workspace) -> list[str]:
    """Runs whose process ended without clearing up."""
    if not workspace.scratch.is_dir():
        return []
    return sorted(folder.name for folder in workspace.scratch.iterdir() if not _is_alive(folder))


def live_runs(workspace: Workspace) -> list[str]:
    """Runs in progress, of all checkouts that share the home."""
    if not workspace.scratch.is_dir():
        return []
    return sorted(folder.name for folder in workspace.scratch.iterdir() if _is_alive(folder))


def is_running(workspace: Workspace, run: str) -> bool:
    """Whether the process of a run lives."""
    scratch = workspace.scratch / run
    return scratch.is_dir() and _is_alive(scratch)


def _is_alive(scratch: Path) -> bool:
    try:
        with (scratch / "alive").open("r+") as file:
            return not _try_lock(file.fileno())
    except FileNotFoundError:
        # Between making the folder and the lock lies an instant; a dead run stays like this for longer.
        try:
            return time.time() - scratch.stat().st_mtime < 10
        except FileNotFoundError:
            return True


def forget_run(workspace: Workspace, name: str) -> None:
    """Ends what still works for a dead run, Packer above all, and removes its folders."""
    import shutil

    process.end_orphans(f"{workspace.scratch / name}/")
    for folder in (_socket_dir(name), workspace.scratch / name):
        shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
