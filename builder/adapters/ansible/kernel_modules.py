"""Cache of compiled kernel modules: archives of builds that passed their checks, each with its sha256 file.

A build gets a folder with verified archives, and a second folder for the archives that it makes. The machine
writes to the second folder, so its archives are cached only after the checks of the image have passed.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.adapters.host.workspace import Run, write_atomically
from builder.sources import file_sha256

# Names of two cache folders: for archives of AMI builds, and for archives of role runs without an image.
BUILDS, ROLES = "modules", "role-modules"
_ARCHIVE = re.compile(r"[A-Za-z0-9][\w.+~-]*\.dkms\.tar\.gz")


def cached(folder: Path) -> Path:
    """Return the folder with the cached archives of kernel modules that a build may use."""
    return folder / "cached"


def made(folder: Path) -> Path:
    """Return the folder for the archives of kernel modules that a build makes."""
    return folder / "made"


def prepare(run: Run, folder: Path, *, cache: str, note: Callable[[str], object]) -> None:
    """Create both folders of a build; delete cached archives that differ from their digest."""
    for path in (cached(folder), made(folder)):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700, parents=True)
    store = run.workspace.cache(cache)
    with run.locked(cache):
        for archive in _archives(store):
            if _is_intact(archive):
                os.link(archive, cached(folder) / archive.name)
            else:
                note(f"{archive}: differs from its recorded sha256; deleted, it will be compiled again")
                archive.unlink()
                _digest_file(archive).unlink(missing_ok=True)


def keep(run: Run, folder: Path, *, cache: str) -> None:
    """Cache the archives of a build with their digests; call it only after the image passed its checks."""
    store = run.workspace.cache(cache)
    with run.locked(cache):
        for archive in _archives(made(folder)):
            target = store / archive.name
            if target.exists() and _is_intact(target):
                continue
            # Without its digest an archive is deleted at the next use, so an interruption here is harmless.
            _digest_file(target).unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(dir=store.parent, prefix="modules-") as temporary:
                copy = Path(temporary) / archive.name
                shutil.copyfile(archive, copy)
                digest = file_sha256(copy)
                copy.replace(target)
            write_atomically(_digest_file(target), f"{digest}\n")


def _archives(folder: Path) -> Iterator[Path]:
    """Yield the regular files of a folder that have the name of an archive."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _ARCHIVE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            yield path


def _digest_file(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.sha256")


def _is_intact(archive: Path) -> bool:
    try:
        recorded = _digest_file(archive).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return False
    return recorded == file_sha256(archive)
