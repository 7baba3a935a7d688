"""apt's archives and lists for build containers: private folders, filled with hard links from a shared store.

Each container has its own folders because apt locks its archives and rewrites its lists. Downloads of a
successful run are linked back into the store.
"""

import os
from contextlib import suppress
from pathlib import Path

from builder.adapters.engine.client import Bind
from builder.adapters.host.workspace import Run

_TARGETS = {"archives": "/var/cache/apt", "lists": "/var/lib/apt/lists"}


def mounts(store: Path, scratch: Path) -> list[Bind]:
    """Create a container's folders below `scratch`, linked from the store; return their mounts."""
    binds = []
    for name, target in _TARGETS.items():
        folder = _folder(scratch, name)
        folder.mkdir(parents=True)
        (folder / "partial").mkdir()
        for file in (store / name).glob("*"):
            with suppress(FileNotFoundError):  # another run has just replaced it by a newer file
                os.link(file, folder / file.name)
        # apt takes the age of its lists from the mtime of the folder; 0 makes it fetch missing lists.
        stamp = (store / name).stat().st_mtime if (store / name).is_dir() else 0
        os.utime(folder, (stamp, stamp))
        binds.append(Bind(source=str(scratch / name), target=target, writable=True))
    return binds


def keep(run: Run, store: Path, scratch: Path) -> None:
    """Link the files that the container downloaded into the store."""
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
    """Replace `kept` by a hard link to `file`, atomically."""
    # rename() does nothing if both names are links to the same file, so `temporary` would stay.
    if kept.exists() and kept.samefile(file):
        return
    # Outside the folder, because `mounts` of another run would link it into its container.
    temporary = kept.parent.parent / f".{kept.name}"
    temporary.unlink(missing_ok=True)
    os.link(file, temporary)
    temporary.replace(kept)
