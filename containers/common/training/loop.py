"""The training loop: resume, train, save checkpoints, stop on SIGTERM, report the result.

It uses workloads only through the protocol below and knows nothing of models or the content of checkpoints.
"""

import json
import math
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Protocol

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from training import checkpoint
from training.checkpoint import Progress
from training.errors import TrainingError
from training.options import EXIT_TERMINATED
from training.ranks import Ranks, connect


class Workload(Protocol):
    """Model with its data and optimizer. All ranks call every method together."""

    program: str
    identity: dict[str, str | int]  # a checkpoint can be loaded only if its identity is equal
    parameters: int
    unit: str  # unit of throughput
    units_per_step: int  # units that one rank processes in a step

    def train_step(self, step: int) -> torch.Tensor:
        """Run an optimizer step, counted from 1; return the loss of this rank's batch."""

    def save(self, folder: Path) -> "Future[object]":
        """Write the state; the future is done on the first rank when the files of all ranks are on disk."""

    def load(self, folder: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run, printed as its last line."""

    program: str
    torch: str
    device: str
    backend: str
    world_size: int
    parameters: int
    steps: int
    finished: bool
    restarts: int
    resumed_from_step: int
    first_loss: float | None
    last_loss: float | None
    throughput: float
    throughput_unit: str
    train_seconds: float


class Checkpointer:
    """Loads and saves a run's checkpoints, with at most one unfinished save at a time."""

    def __init__(self, workload: Workload, options: Namespace, ranks: Ranks) -> None:
        self._workload = workload
        self._root: Path = options.checkpoint_dir
        self._every: int = options.checkpoint_every
        self._keep: int = options.keep_checkpoints
        self._ranks = ranks
        self._pending: tuple[Future[object], Path, Progress] | None = None
        self._saved_step = 0

    def resume(self) -> Progress:
        """Load the newest complete checkpoint, the same on all ranks; return its progress."""
        found: list[checkpoint.Checkpoint | None] = [None]
        if self._ranks.is_first:
            self._root.mkdir(parents=True, exist_ok=True)
            checkpoint.clear_partial(self._root)
            found = [checkpoint.find_latest(self._root, report=log)]
        dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
        if found[0] is None:
            return Progress()
        checkpoint.check_identity(found[0], self._workload.identity)
        self._workload.load(found[0].folder)
        self._saved_step = found[0].progress.step
        if self._ranks.is_first:
            log(f"resumed from {found[0].folder}")
        return found[0].progress

    def after_step(self, progress: Progress) -> None:
        self._commit_if_written(wait=False)
        if progress.step % self._every == 0:
            self._save(progress)

    def finish(self, progress: Progress) -> None:
        """Save the final state and wait until it is on disk."""
        self._save(progress)
        self._commit_if_written(wait=True)

    def _save(self, progress: Progress) -> None:
        self._commit_if_written(wait=True)
        if progress.step == self._saved_step:
            return
        partial = checkpoint.partial_folder(self._root, progress.step)
        partial.mkdir(exist_ok=True)
        self._pending = (self._workload.save(partial), partial, progress)
        self._saved_step = progress.step
        self._commit_if_written(wait=False)

    def _commit_if_written(self, *, wait: bool) -> None:
        if self._pending is None or not (wait or self._pending[0].done()):
            return
        written, partial, progress = self._pending
        written.result()
        self._pending = None
        if self._ranks.is_first:
            checkpoint.commit(partial, progress, self._workload.identity)
            checkpoint.prune(self._root, keep=self._keep)


class Stopwatch:
    """Measures the time of all steps after the first, which is warm-up; includes the time of saves."""

    def __init__(self) -> None:
        self._steps = -1
        self._began = self._last = 0.0

    def count_step(self) -> None:
        self._last = monotonic()
        if self._steps < 0:
            self._began = self._last
        self._steps += 1

    @property
    def seconds(self) -> float:
        return self._last - self._began

    @property
    def steps_per_s(self) -> float:
        return self._steps / self.seconds if self._steps > 0 else 0.0


class StopRequest:
    """Record of a SIGTERM, kept until the ranks agree to stop after the same step.

    If a rank dies, torchrun also sends SIGTERM to the others. Their next collective then fails, or torchrun
    kills them after --shutdown-timeout, and the restart resumes from the last checkpoint.
    """

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._record)

    def _record(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


@record
def run(options: Namespace, make_workload: Callable[[Namespace, Ranks], Workload]) -> int:
    """Train and print the result; return 0 if all steps were done, else EXIT_TERMINATED."""
    stop = StopRequest()
    with connect(options) as ranks:
        try:
            result = train(make_workload(options, ranks), options, ranks, stop)
        except OSError as error:
            raise TrainingError(f"{error.strerror or error}: {error.filename or 'no file named'}") from error
        if ranks.is_first:
            print(json.dumps(asdict(result)), flush=True)
        return 0 if result.finished else EXIT_TERMINATED


def train(workload: Workload, options: Namespace, ranks: Ranks, stop: StopRequest) -> Result:
    checkpointer = Checkpointer(workload, options, ranks) if options.checkpoint_dir else None
    progress = checkpointer.resume() if checkpointer else Progress()
    resumed_from_step = progress.step
    stopwatch = Stopwatch()
    stopping = False
    with ExitStack() as stack:
        metrics = None
        if options.metrics and ranks.is_first:
            # Line buffered, so that readers of the growing file get whole lines.
            metrics = stack.enter_context(options.metrics.open("a", buffering=1, encoding="utf-8"))
        while progress.step < options.steps and not stopping:
            step = progress.step + 1
            loss, stopping = _agree(workload.train_step(step), ranks, stop_wanted=stop.received)
            if not math.isfinite(loss):
                raise TrainingError(f"the loss is {loss} at step {step}; try a lower --learning-rate")
            first_loss = loss if progress.first_loss is None else progress.first_loss
            progress = Progress(step=step, first_loss=first_loss, last_loss=loss)
            stopwatch.count_step()
            if metrics:
                metrics.write(json.dumps({"restart": ranks.restart, "step": step, "loss": loss}) + "\n")
            if ranks.is_first and step % options.log_every == 0:
                log(f"step {step}/{options.steps}  loss {loss:.4f}")
            if checkpointer:
                checkpointer.after_step(progress)
    if checkpointer:
        checkpointer.finish(progress)
    return Result(
        program=workload.program,
        torch=torch.__version__,
        device=ranks.device.type,
        backend=ranks.backend,
        world_size=ranks.world_size,
        parameters=workload.parameters,
        steps=progress.step,
        finished=progress.step >= options.steps,
        restarts=ranks.restart,
        resumed_from_step=resumed_from_step,
        first_loss=progress.first_loss,
        last_loss=progress.last_loss,
        throughput=round(stopwatch.steps_per_s * workload.units_per_step * ranks.world_size, 1),
        throughput_unit=f"{workload.unit}/s",
        train_seconds=round(stopwatch.seconds, 3),
    )


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _agree(loss: torch.Tensor, ranks: Ranks, *, stop_wanted: bool) -> tuple[float, bool]:
    """Return the mean loss and True if any rank wants to stop, with a single reduction for both."""
    both = torch.stack([loss.detach().float(), loss.new_tensor(float(stop_wanted), dtype=torch.float32)])
    dist.all_reduce(both)
    total, stops = both.tolist()
    return total / ranks.world_size, stops > 0
