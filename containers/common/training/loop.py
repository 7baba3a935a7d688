"""The training loop: resume, train, save checkpoints, stop on SIGTERM, report the result.

It uses workloads, data and ranks only through protocols and knows no framework, no model and no content of a
checkpoint. An error of one rank is raised on all ranks after the same step.
"""

import json
import math
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TextIO

from training.checkpoint import Progress
from training.data import Batches
from training.errors import EXIT_TERMINATED, DataError, TrainingError
from training.ranks import Ranks, caught
from training.saving import Checkpointer
from training.stopping import StopRequest


class Workload(Protocol):
    """Model with its optimizer. All ranks call every method together."""

    program: str
    identity: dict[str, str | int]  # a checkpoint can be loaded only if its identity is equal
    parameters: int
    unit: str  # unit of throughput
    units_per_step: int  # units that all ranks together process in a step

    def train_step(self, step: int, batch: Any) -> Any:
        """Run an optimizer step, counted from 1; return the loss of this rank's batch."""

    def save(self, folder: Path) -> "Future[object]":
        """Write the state; the future is done on the first rank when the files of all ranks are on disk."""

    def load(self, folder: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run, printed as its last line."""

    program: str
    framework: str
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


class Stopwatch:
    """Measures the time of all steps after the first, which is warm-up; includes the time of saves."""

    def __init__(self) -> None:
        self._steps = -1
        self._began = self._last = 0.0
        self.last_step = 0.0  # seconds

    def count_step(self) -> None:
        now = monotonic()
        if self._steps < 0:
            self._began = now
        else:
            self.last_step = now - self._last
        self._last = now
        self._steps += 1

    @property
    def seconds(self) -> float:
        return self._last - self._began

    @property
    def steps_per_s(self) -> float:
        return self._steps / self.seconds if self._steps > 0 else 0.0


class Training:
    """Run of a workload; `problem` is an error of this rank that the ranks have not agreed on yet."""

    def __init__(
        self, workload: Workload, batches: Batches, options: Namespace, ranks: Ranks, stop: StopRequest
    ) -> None:
        self._workload, self._batches, self._options = workload, batches, options
        self._ranks, self._stop = ranks, stop
        self._checkpointer = Checkpointer(workload, options, ranks) if options.checkpoint_dir else None
        self._stopwatch = Stopwatch()
        self._metrics: TextIO | None = None
        self.problem: TrainingError | None = None

    def run(self) -> Result:
        progress, resumed_from_step = self._resume(), 0
        resumed_from_step = progress.step
        with ExitStack() as stack:
            self._metrics = stack.enter_context(self._opened_metrics())
            traced = stack.enter_context(self._ranks.profiled(self._options))
            position, batch = self._take(progress)
            self._ranks.raise_first(self.problem)
            stopping = False
            while progress.step < self._options.steps and not stopping:
                loss = self._workload.train_step(progress.step + 1, batch)
                position, batch = self._take(Progress(step=progress.step + 1))
                progress, stopping = self._agree(progress, loss, position)
                traced()
                if self._checkpointer:
                    self._checkpointer.after_step(progress, position)
        if self._checkpointer:
            self._checkpointer.save(progress, position)
            self._checkpointer.wait()
        return self._result(progress, resumed_from_step)

    def _resume(self) -> Progress:
        if not self._checkpointer:
            return Progress()
        progress, positions = self._checkpointer.resume()
        if positions and not getattr(self._options, "reset_data", False):
            self._ranks.together(lambda: self._batches.seek(positions))
        return progress

    def _take(self, progress: Progress) -> tuple[dict[str, Any], Any]:
        """Return the position of the next batch and the batch; None after the last step or an error."""
        position = self._batches.position()
        if progress.step >= self._options.steps or self.problem:
            return position, None
        batch, self.problem = caught(self._batches.take)
        return position, batch

    def _agree(self, progress: Progress, loss: Any, position: dict[str, Any]) -> tuple[Progress, bool]:
        """Return the progress after a step, and True if any rank wants to stop; raise errors of any rank."""
        saving = self._checkpointer.problem if self._checkpointer else None
        flags = [self._stop.received, bool(self.problem or saving)]
        mean, (stopping, failed) = self._ranks.mean_and_any(loss, flags)
        step = progress.step + 1
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is {mean} at step {step}; try a lower --learning-rate")
        first_loss = mean if progress.first_loss is None else progress.first_loss
        progress = Progress(step=step, first_loss=first_loss, last_loss=mean)
        self._stopwatch.count_step()
        _, report_problem = caught(lambda: self._report(progress))
        if failed:
            self._fail(progress, position)
        self.problem = self.problem or report_problem
        return progress, stopping

    def _fail(self, progress: Progress, position: dict[str, Any]) -> None:
        """Raise the error of the first rank that has one; save a checkpoint first if it is a DataError."""
        if self._checkpointer:
            self._checkpointer.wait()
        try:
            self._ranks.raise_first(self.problem)
        except DataError:
            if self._checkpointer:
                self._checkpointer.save(progress, position)
                self._checkpointer.wait()
            raise

    def _report(self, progress: Progress) -> None:
        seconds = self._stopwatch.last_step
        throughput = self._workload.units_per_step / seconds if seconds else 0.0
        if self._metrics:
            line = {"restart": self._ranks.restart, "step": progress.step, "loss": progress.last_loss}
            line |= {"seconds": round(seconds, 6), "throughput": round(throughput, 1)}
            self._metrics.write(json.dumps(line) + "\n")
        if progress.step % self._options.log_every == 0:
            speed = f"  {throughput:,.0f} {self._workload.unit}/s" if seconds else ""
            steps = f"step {progress.step}/{self._options.steps}"
            self._ranks.say(f"{steps}  loss {progress.last_loss:.4f}{speed}")

    @contextmanager
    def _opened_metrics(self) -> Iterator[TextIO | None]:
        if not self._options.metrics:
            yield None
            return
        file = self._ranks.together(
            lambda: (
                self._options.metrics.open("a", buffering=1, encoding="utf-8")
                if self._ranks.is_first
                else None
            )
        )
        try:
            yield file
        finally:
            if file:
                caught(file.close)

    def _result(self, progress: Progress, resumed_from_step: int) -> Result:
        rate = self._stopwatch.steps_per_s * self._workload.units_per_step
        return Result(
            program=self._workload.program,
            framework=self._ranks.framework,
            device=self._ranks.device_type,
            backend=self._ranks.backend,
            world_size=self._ranks.world_size,
            parameters=self._workload.parameters,
            steps=progress.step,
            finished=progress.step >= self._options.steps,
            restarts=self._ranks.restart,
            resumed_from_step=resumed_from_step,
            first_loss=progress.first_loss,
            last_loss=progress.last_loss,
            throughput=round(rate, 1),
            throughput_unit=f"{self._workload.unit}/s",
            train_seconds=round(self._stopwatch.seconds, 3),
        )


def finish(result: Result, *, is_first: bool) -> int:
    """Print the result on the first rank; return 0 if all steps were done, else EXIT_TERMINATED."""
    if is_first:
        print(json.dumps(asdict(result)), flush=True)
    return 0 if result.finished else EXIT_TERMINATED
