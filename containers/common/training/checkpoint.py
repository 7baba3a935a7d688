"""Names, completeness and deletion of checkpoints on a shared file system.

A checkpoint is a folder `step-00000040` that is created by a rename after all its files are on disk. Its
manifest lists every file with its size, which also detects incomplete copies. Only workloads know the content
of the files.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.errors import TrainingError

MANIFEST = "checkpoint.json"
PARTIAL = ".partial"
FOLDER = re.compile(r"step-(\d{8,})")


class IncompleteError(Exception):
    """Incomplete checkpoint; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of the training."""

    step: int = 0
    first_loss: float | None = None
    last_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Complete checkpoint; `identity` describes the program and model that can load it."""

    folder: Path
    progress: Progress
    identity: dict[str, str | int]


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    progress: Progress
    identity: dict[str, str | int]
    files: dict[str, int] = field(default_factory=dict)


def partial_folder(root: Path, step: int) -> Path:
    """Return the folder to which a checkpoint is written before it is complete."""
    return root / f"step-{step:08d}{PARTIAL}"


def commit(partial: Path, progress: Progress, identity: dict[str, str | int]) -> Checkpoint:
    """Turn a partial folder, whose files are already on disk, into a checkpoint atomically."""
    manifest = _Manifest(progress=progress, identity=identity, files=_file_sizes(partial))
    with (partial / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(partial)
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    if final.exists():
        # The existing folder is damaged: training resumed from an earlier checkpoint and repeated the steps.
        _discard(final)
    partial.rename(final)
    sync_folder(final.parent)
    return Checkpoint(folder=final, progress=progress, identity=identity)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in this folder; raise IncompleteError if it is incomplete."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        progress = Progress(**manifest["progress"])
        identity, expected = dict(manifest["identity"]), dict(manifest["files"])
    except FileNotFoundError as error:
        raise IncompleteError(f"{MANIFEST} is missing") from error
    except (ValueError, TypeError, KeyError) as error:
        raise IncompleteError(f"{MANIFEST} is invalid ({error})") from error
    found = _file_sizes(folder)
    for name, size in expected.items():
        if found.get(name) != size:
            raise IncompleteError(f"{name} has {found.get(name, 'no')} bytes instead of {size}")
    return Checkpoint(folder=folder, progress=progress, identity=identity)


def find_latest(root: Path, *, report: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
    """Return the complete checkpoint with the highest step; report incomplete ones with the reason."""
    for folder in reversed(_step_folders(root)):
        try:
            return read_checkpoint(folder)
        except IncompleteError as error:
            report(f"{folder.name} is skipped: {error}")
    return None


def check_identity(checkpoint: Checkpoint, identity: dict[str, str | int]) -> None:
    """Raise TrainingError if the checkpoint is from another program or model."""
    for key in {**identity, **checkpoint.identity}:
        wanted, found = identity.get(key), checkpoint.identity.get(key)
        if wanted != found:
            raise TrainingError(
                f"{checkpoint.folder} was written with {key} {found!r}, but this run has {wanted!r}; "
                "use another --checkpoint-dir or the options of the first run"
            )


def prune(root: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for folder in _step_folders(root)[:-keep]:
        _discard(folder)


def clear_partial(root: Path) -> None:
    """Delete partial checkpoints of killed runs; must run before any rank writes."""
    for folder in root.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(folder)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, which makes renames durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _step_folders(root: Path) -> list[Path]:
    folders = [path for path in root.glob("step-*") if FOLDER.fullmatch(path.name)]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def _file_sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _discard(folder: Path) -> None:
    # The folder is renamed first, so that an interrupted deletion leaves a partial folder, which the next
    # start deletes.
    discarded = folder.with_name(f"{folder.name}.old{PARTIAL}")
    folder.rename(discarded)
    shutil.rmtree(discarded)
