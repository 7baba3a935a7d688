"""Saving and loading during a training: one unfinished save at a time, errors agreed on by all ranks."""

import json
import os
import shutil
from argparse import Namespace
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from training import checkpoint
from training.checkpoint import Checkpoint, Progress
from training.errors import StorageError, TrainingError
from training.ranks import Ranks, caught

POSITION = "position-{rank:05d}.json"  # position in the data of each rank


class Storable(Protocol):
    """State of a workload. All ranks call the methods together."""

    identity: dict[str, str | int]

    def save(self, folder: Path) -> "Future[object]": ...

    def load(self, folder: Path) -> None: ...


class Checkpointer:
    """Loads and saves a run's checkpoints; `problem` is a failed save that ranks have not agreed on yet."""

    def __init__(self, workload: Storable, options: Namespace, ranks: Ranks) -> None:
        self._workload = workload
        self._root: Path = options.checkpoint_dir
        self._every: int = options.checkpoint_every
        self._keep: int = options.keep_checkpoints
        self._ranks = ranks
        self._pending: tuple[Future[object], Path, Progress] | None = None
        self._saved_step = 0
        self.problem: TrainingError | None = None

    def resume(self) -> tuple[Progress, list[dict[str, Any]]]:
        """Load the newest complete checkpoint, the same on all ranks; return progress and data positions."""
        found = self._ranks.gather(self._ranks.together(self._find))[0]
        if found is None:
            return Progress(), []
        checkpoint.check_identity(found, self._workload.identity)
        self._ranks.together(lambda: self._workload.load(found.folder))
        self._saved_step = found.progress.step
        self._ranks.say(f"resumed from {found.folder}")
        return found.progress, self._ranks.together(lambda: read_positions(found.folder))

    def _find(self) -> Checkpoint | None:
        if not self._ranks.is_first:
            return None
        self._root.mkdir(parents=True, exist_ok=True)
        checkpoint.clear_partial(self._root)
        return checkpoint.find_latest(self._root, report=self._ranks.say)

    def after_step(self, progress: Progress, position: dict[str, Any]) -> None:
        if self.problem is None:
            _, self.problem = caught(lambda: self._commit_if_written(wait=False))
        if progress.step % self._every == 0:
            self.save(progress, position)

    def save(self, progress: Progress, position: dict[str, Any]) -> None:
        """Start to write a checkpoint, after the previous one is on disk."""
        self.wait()
        if progress.step == self._saved_step:
            return
        partial = checkpoint.partial_folder(self._root, progress.step)
        try:
            self._ranks.together(lambda: write_position(partial, self._ranks.rank, position))
            written = self._ranks.together(lambda: self._workload.save(partial))
        except StorageError as error:
            raise self._lost(error) from error
        self._pending = (written, partial, progress)
        self._saved_step = progress.step

    def wait(self) -> None:
        """Wait until the last save is on disk; raise its error on all ranks."""
        _, problem = caught(lambda: self._commit_if_written(wait=True))
        try:
            self._ranks.raise_first(self.problem or problem)
        except StorageError as error:
            raise self._lost(error) from error

    def _commit_if_written(self, *, wait: bool) -> None:
        if self._pending is None or not (wait or self._pending[0].done()):
            return
        written, partial, progress = self._pending
        self._pending = None
        written.result()
        if self._ranks.is_first:
            checkpoint.commit(partial, progress, self._workload.identity)
            checkpoint.prune(self._root, keep=self._keep)

    def _lost(self, error: StorageError) -> StorageError:
        """Delete the partial checkpoint; return the error with the step of the last complete checkpoint."""
        found = None
        if self._ranks.is_first:
            for folder in self._root.glob(f"step-*{checkpoint.PARTIAL}"):
                shutil.rmtree(folder, ignore_errors=True)
            found = checkpoint.find_latest(self._root)
        kept = (
            f"the checkpoint of step {found.progress.step} is intact" if found else "there is no earlier one"
        )
        free = shutil.disk_usage(self._root).free // 10**6
        return StorageError(f"cannot write a checkpoint: {error}; {kept}; {free} MB are free in {self._root}")


def done() -> "Future[object]":
    """Return the future of a save that is on disk already."""
    future: Future[object] = Future()
    future.set_result(None)
    return future


def write_position(folder: Path, rank: int, position: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / POSITION.format(rank=rank)).open("w", encoding="utf-8") as file:
        json.dump(position, file)
        file.flush()
        os.fsync(file.fileno())


def read_positions(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob(POSITION.replace("{rank:05d}", "*")))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
