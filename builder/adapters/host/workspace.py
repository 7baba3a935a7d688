"""The factory's folders and locks on this machine, and the folders of each run.

A run holds a lock while its process lives. A later run can therefore detect dead runs without comparing
process ids, and remove their leftovers.
"""

import fcntl
import hashlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import field
from functools import partial
from pathlib import Path

from builder.adapters.host import private
from builder.errors import Interrupted, MissingError, naming
from builder.values import dataclass
from builder.wait import until

_POLL_S = 0.1
RUN_NAME = re.compile(r"\d{8}-\d{6}-[a-z0-9.-]+-[0-9a-f]{6}", re.ASCII)
_RUNS = "runs"  # lock: shared by runs, exclusive for the removal of shared folders
# Links in a run's scratch folder to its folders for sockets and for root file systems.
_SOCKETS, _ROOTS = "sockets", "roots"
_LONGEST_NAMES = 500  # characters of a lock file: the name of a host, the id of a start
_creating = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """Folder of caches (`home`, shared by all checkouts of a user) and folder of results (`out`)."""

    home: Path
    out: Path

    @property
    def scratch(self) -> Path:
        return self.home / "scratch"

    @property
    def checkout(self) -> str:
        """A hash that identifies the checkout without revealing its path."""
        return hashlib.sha256(str(self.out).encode()).hexdigest()[:12]

    def cache(self, *parts: str) -> Path:
        return self.folder("cache", *parts)

    def folder(self, *parts: str) -> Path:
        """Create a folder below the builder's home that other users cannot enter, and return it."""
        with _writable():
            private.make_folder(self.home)
        folder = self.home.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextmanager
def _writable() -> Iterator[None]:
    """Raise MissingError for a folder that cannot be created in the block."""
    try:
        yield
    except OSError as error:
        raise MissingError(
            f"cannot write to {error.filename}: {error.strerror}",
            hint="make the folder writable, or set BUILDER_HOME to a writable folder",
        ) from error


def find_workspace(root: Path) -> Workspace:
    named = os.environ.get("BUILDER_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(named).absolute() if named else cache / "image-factory"
    private.require_own(home)
    return Workspace(home=home, out=root / "out")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run of a command: its name, its folders, and its cancellation event."""

    name: str
    workspace: Workspace
    folder: Path
    scratch: Path
    cancelled: threading.Event = field(default_factory=threading.Event)
    # Set if cleanup failed: the scratch folder then stays, and a later command cleans up as for a dead run.
    keep_scratch: threading.Event = field(default_factory=threading.Event)

    @property
    def socket_dir(self) -> Path:
        """Folder with a short path for Unix sockets (107-byte limit), which other users cannot enter."""
        with _creating:
            return private.temporary_folder(self.scratch / _SOCKETS)

    @property
    def root_dir(self) -> Path:
        """Folder for root file systems during a bootstrap, which ids of a user namespace can access."""
        with _creating:
            return private.temporary_folder(self.scratch / _ROOTS, 0o711)

    def stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Interrupted("interrupted")

    @contextmanager
    def locked(self, name: str, *, waiting: Callable[[str], object] = lambda _: None) -> Iterator[bool]:
        """Hold the machine-wide lock `name` during the block; yield True if another run held it first.

        `waiting` is called with the name of that run.
        """
        with locked(
            self.workspace, name, cancelled=self.cancelled, holder=self.name, waiting=waiting
        ) as waited:
            yield waited


@contextmanager
def locked(
    workspace: Workspace,
    name: str,
    *,
    cancelled: threading.Event | None = None,
    holder: str = "",
    waiting: Callable[[str], object] = lambda _: None,
) -> Iterator[bool]:
    """Hold a lock shared by all processes with this home during the block; yield True if it had to wait.

    The kernel releases the lock even if the process is killed. The file names the holder, and `waiting` is
    called with the holder's name.
    """
    with (workspace.folder("locks") / name).open("a+", encoding="utf-8", errors="replace") as file:
        waited = not _try_lock(file.fileno())
        if waited:
            file.seek(0)
            waiting(file.read(_LONGEST_NAMES))
            is_mine = partial(_try_lock, file.fileno())
            until(is_mine, timeout_s=math.inf, every_s=_POLL_S, cancelled=cancelled)
        file.truncate(0)
        file.write(holder)
        file.flush()
        yield waited


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def open_run(workspace: Workspace, label: str, *, cancelled: threading.Event | None = None) -> Iterator[Run]:
    """Open a run; delete its scratch folder when the block ends, even with an error."""
    from builder.adapters.host import process

    label = re.sub(r"[^a-z0-9.-]+", "-", label.lower())
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{os.urandom(3).hex()}"
    scratch = workspace.scratch / name
    folder = workspace.out / "runs" / name
    with _writable():
        workspace.folder("scratch")
        scratch.mkdir(mode=0o700)
        folder.mkdir(parents=True)
    marked = process.marked_children(str(scratch))
    with _alive(workspace), (scratch / "alive").open("w") as alive, marked:
        _try_lock(alive.fileno())
        with naming(scratch / "alive"):
            alive.write("\n".join(_host()))
            alive.flush()
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
                try:
                    forget_run(workspace, name)
                except MissingError as error:  # must not hide an error of the block; `clean` tries again
                    print(f"{error.message}; {error.hint}", file=sys.stderr)


def is_run_name(name: str) -> bool:
    """True if `open_run` could have chosen this name."""
    return bool(RUN_NAME.fullmatch(name))


def dead_runs(workspace: Workspace) -> list[str]:
    """Return the names of runs whose process ended without cleanup."""
    if not workspace.scratch.is_dir():
        return []
    return sorted(folder.name for folder in workspace.scratch.iterdir() if not _is_alive(folder))


def live_runs(workspace: Workspace) -> list[str]:
    """Return the names of runs in progress, of all checkouts that share the home."""
    if not workspace.scratch.is_dir():
        return []
    return sorted(folder.name for folder in workspace.scratch.iterdir() if _is_alive(folder))


def is_running(workspace: Workspace, run: str) -> bool:
    """True if the process of a run is alive."""
    scratch = workspace.scratch / run
    return scratch.is_dir() and _is_alive(scratch)


def _is_alive(scratch: Path) -> bool:
    try:
        with (scratch / "alive").open("r+", encoding="utf-8", errors="replace") as file:
            return not _try_lock(file.fileno()) or is_foreign(file.read(_LONGEST_NAMES))
    except FileNotFoundError:
        # A run that is starting has created its folder but not its lock; it counts as alive for 10 s.
        # The age is absolute, because the clock may have been set back since then.
        try:
            return abs(time.time() - scratch.stat().st_mtime) < 10
        except FileNotFoundError:
            return True


def _host() -> tuple[str, str]:
    """Return the name and the boot ID of this host."""
    return os.uname().nodename, Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def is_foreign(text: str) -> bool:
    """True if the text of a lock file is of another host, whose locks do not work through a shared home.

    A free lock proves a dead process if its text has this host's boot ID or, after a reboot, its host name.
    """
    name, _, boot = text.strip().partition("\n")
    own_name, own_boot = _host()
    return bool(name) and own_name != name and own_boot != boot


def foreign_runs(workspace: Workspace) -> dict[str, str]:
    """Return the runs of other hosts with this home, each with the name of its host."""
    found = {}
    for path in workspace.scratch.glob("*/alive"):
        with suppress(OSError):
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_LONGEST_NAMES)
            if is_foreign(text):
                found[path.parent.name] = text.partition("\n")[0]
    return found


@contextmanager
def _alive(workspace: Workspace) -> Iterator[None]:
    """Prevent the removal of shared folders until the block ends; wait for a removal in progress."""
    with (workspace.folder("locks") / _RUNS).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def without_runs(workspace: Workspace) -> Iterator[bool]:
    """Yield True if no run is in progress; then no run can begin until the block ends."""
    with (workspace.folder("locks") / _RUNS).open("a") as file:
        yield _try_lock(file.fileno()) and not live_runs(workspace)


def forget_run(workspace: Workspace, name: str) -> None:
    """End the remaining processes of a dead run, such as Packer, and delete its folders."""
    import shutil

    from builder.adapters.host import process

    process.end_orphans(str(workspace.scratch / name))
    for link in (_SOCKETS, _ROOTS):
        private.remove_temporary_folder(workspace.scratch / name / link)
    shutil.rmtree(workspace.scratch / name, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a file by renaming a temporary one, so that readers never see it incomplete.

    The file and its folder are synced to disk, so that the file is also complete after a power loss.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with naming(path), temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Sync the directory entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
