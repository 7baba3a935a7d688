"""apt's archives and lists for build containers: private folders, filled with hard links from a shared store.

Each container has folders of its own because apt locks its archives and rewrites its lists; what a successful
run downloaded is linked back into the store for the next one.
"""

import os
from contextlib import suppress
from pathlib import Path

from builder.adapters.engine.client import Bind
from builder.adapters.host.workspace import Run

_TARGETS = {"archives": "/var/cache/apt", "lists": "/var/lib/apt/lists"}


def mounts(store: Path, scratch: Path) -> list[Bind]:
    """Create the private folders of one container below `scratch`, with the files of the store in them."""
    binds = []
    for name, target in _TARGETS.items():
        folder = _folder(scratch, name)
        folder.mkdir(parents=True)
        (folder / "partial").mkdir()
        for file in (store / name).glob("*"):
            with suppress(FileNotFoundError):  # replaced meanwhile by another run that has newer ones
                os.link(file, folder / file.name)
        # apt judges the age of its lists by the folder's time; lists that are not there are old.
        stamp = (store / name).stat().st_mtime if (store / name).is_dir() else 0
        os.utime(folder, (stamp, stamp))
        binds.append(Bind(source=str(scratch / name), target=target, writable=True))
    return binds


def keep(run: Run, store: Path, scratch: Path) -> None:
    """Link what the container downloaded into the store."""
    with run.locked(f"apt-{store.name}"):
        for name in _TARGETS:
            folder, kept = _folder(scratch, name), store / name
            kept.mkdir(parents=True, exist_ok=True)
            stamp = folder.stat().st_mtime
            if name == "lists" and stamp <= kept.stat().st_mtime and any(kept.iterdir()):
                continue
            for file in folder.iterdir():
                if file.is_file() and file.name != "lock":
                    _link(file, kept / file.name)
            os.utime(kept, (stamp, stamp))


def _folder(scratch: Path, name: str) -> Path:
    return scratch / name / "archives" if name == "archives" else scratch / name


def _link(file: Path, kept: Path) -> None:
    """Replace `kept` by a hard link to `file`, in one step."""
    # Renaming one name of a file to another name of the same file does nothing and keeps both.
    if kept.exists() and kept.samefile(file):
        return
    # Not in the folder itself: a container that is being filled would take it along.
    temporary = kept.parent.parent / f".{kept.name}"
    temporary.unlink(missing_ok=True)
    os.link(file, temporary)
    temporary.replace(kept)
