"""The training loop, tested without a framework: resumption, stop signals, data and storage errors."""

import json
import os
import signal
import sys
from argparse import Namespace
from concurrent.futures import Future
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))

from training import checkpoint
from training.errors import DataError, StorageError, TrainingError
from training.loop import Training, finish
from training.options import run_program
from training.ranks import Alone
from training.stopping import StopRequest
from training.tracing import traced


class Counting:
    """Workload whose state is the sum of all batches; saving step `full_at` fails with a full disk."""

    program = "counting"
    unit = "batches"
    units_per_step = 1
    parameters = 1

    def __init__(self, *, full_at: int = 0) -> None:
        self.identity: dict[str, str | int] = {"program": self.program}
        self.total = 0
        self.full_at = full_at

    def train_step(self, step: int, batch: int) -> float:
        self.step = step
        self.total += batch
        return 1000.0 - self.total

    def save(self, folder: Path) -> "Future[object]":
        path = folder / "state"
        if self.step == self.full_at:
            path.symlink_to("/dev/full")
        with path.open("w") as file:
            file.write(str(self.total))
        written: Future[object] = Future()
        written.set_result(None)
        return written

    def load(self, folder: Path) -> None:
        self.total = int((folder / "state").read_text())


class Numbers:
    """Batches 1, 2, 3, …; batch `bad` cannot be read, and batch `stop_at` sends SIGTERM."""

    def __init__(self, *, bad: int = 0, stop_at: int = 0) -> None:
        self.taken, self.bad, self.stop_at = 0, bad, stop_at

    def take(self) -> int:
        if self.taken + 1 == self.bad:
            raise DataError("part-3: damaged")
        self.taken += 1
        if self.taken == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.taken

    def position(self) -> dict[str, int]:
        return {"taken": self.taken}

    def seek(self, positions: list[dict[str, int]]) -> None:
        self.taken = positions[0]["taken"]


@pytest.fixture
def stop():
    """Install a StopRequest, which records SIGTERM, and restore the signal handler after the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield StopRequest()
    signal.signal(signal.SIGTERM, before)


def make_options(folder: Path | None, **changes: object) -> Namespace:
    chosen = {"checkpoint_dir": folder, "checkpoint_every": 4, "keep_checkpoints": 2, "steps": 10}
    chosen |= {"log_every": 5, "metrics": None, "profile": None}
    return Namespace(**(chosen | changes))


def train(options, stop, *, workload=None, batches=None, restart=0):
    ranks = Alone(rank=0, world_size=1, restart=restart)
    return Training(workload or Counting(), batches or Numbers(), options, ranks, stop).run()


def saved_steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted(folder.iterdir())]


def test_finished_run_saves_and_reports(tmp_path, stop, capsys):
    result = train(make_options(tmp_path), stop)
    assert (result.steps, result.finished, result.last_loss) == (10, True, 945.0)
    assert saved_steps(tmp_path) == [8, 10]
    assert finish(result, is_first=True) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["program"] == "counting"


def test_stopped_training_resumes_and_ends_like_an_uninterrupted_training(tmp_path, stop):
    first = train(make_options(tmp_path), stop, batches=Numbers(stop_at=6))
    assert (first.finished, finish(first, is_first=False)) == (False, 143)
    stop.received = False
    second = train(make_options(tmp_path), stop, restart=1)
    assert second.resumed_from_step == first.steps
    assert (second.first_loss, second.last_loss) == (999.0, 945.0)


def test_option_reset_data_restarts_the_data_from_the_beginning(tmp_path, stop):
    train(make_options(tmp_path, steps=4), stop)
    batches = Numbers()
    train(make_options(tmp_path, steps=6, reset_data=True), stop, batches=batches)
    assert batches.taken == 2


def test_unreadable_data_end_the_run_after_a_checkpoint_of_the_last_step(tmp_path, stop):
    with pytest.raises(DataError, match="part-3: damaged"):
        train(make_options(tmp_path), stop, batches=Numbers(bad=7))
    assert saved_steps(tmp_path)[-1] == 6
    assert train(make_options(tmp_path), stop).last_loss == 945.0


def test_unreadable_first_batch_ends_the_run_without_a_checkpoint(tmp_path, stop):
    with pytest.raises(DataError, match="part-3: damaged"):
        train(make_options(tmp_path), stop, batches=Numbers(bad=1))
    assert saved_steps(tmp_path) == []


@pytest.mark.parametrize("full_at", [8, 10])
def test_full_disk_loses_no_earlier_checkpoint(tmp_path, stop, full_at):
    earlier = 4 if full_at == 8 else 8
    message = (
        f"cannot write a checkpoint: No space left on device; the checkpoint of step {earlier} is intact"
    )
    with pytest.raises(StorageError, match=message):
        train(make_options(tmp_path), stop, workload=Counting(full_at=full_at))
    assert saved_steps(tmp_path)[-1] == earlier
    assert checkpoint.find_latest(tmp_path).progress.step == earlier
    assert train(make_options(tmp_path), stop).last_loss == 945.0


def test_checkpoint_folder_that_cannot_be_made_is_reported(tmp_path, stop):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        train(make_options(tmp_path / "file" / "checkpoints"), stop)


def test_full_disk_for_the_metrics_file_ends_the_training(stop):
    with pytest.raises(StorageError, match="No space left on device"):
        train(make_options(None, metrics=Path("/dev/full")), stop)


def test_metrics_have_a_line_per_step(tmp_path, stop):
    train(make_options(None, metrics=tmp_path / "metrics", steps=3), stop)
    lines = [json.loads(line) for line in (tmp_path / "metrics").read_text().splitlines()]
    assert [(line["restart"], line["step"], line["loss"]) for line in lines] == [
        (0, 1, 999.0),
        (0, 2, 997.0),
        (0, 3, 994.0),
    ]
    assert lines[0]["throughput"] == 0
    assert lines[1]["throughput"] > 0


def test_loss_that_is_not_finite_ends_the_run(stop):
    class Diverging(Counting):
        def train_step(self, step: int, batch: int) -> float:
            return float("nan") if step == 3 else 1.0

    with pytest.raises(TrainingError, match="the loss is nan at step 3"):
        train(make_options(None), stop, workload=Diverging())


@pytest.mark.parametrize(
    ("step", "steps", "calls"),
    [
        (1, 9, [(1, "start"), (4, "stop")]),
        (5, 9, [(4, "start"), (7, "stop")]),
        (8, 9, [(7, "start"), (9, "stop")]),
        (20, 9, []),
    ],
)
def test_profiler_traces_three_steps_and_is_always_stopped(step, steps, calls):
    found, done = [], []
    with traced(
        step,
        start=lambda: found.append((len(done), "start")),
        stop=lambda: found.append((len(done), "stop")),
    ) as count_step:
        for _ in range(steps):
            done.append(True)
            count_step()
    assert found == calls


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("bad"), 65), (StorageError("full"), 74), (TrainingError("wrong"), 78)]
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_rank_prints_an_error_and_all_ranks_exit_with_its_code(
    monkeypatch, capsys, rank, error, code
):
    def fail() -> int:
        raise error

    monkeypatch.setenv("RANK", rank)
    assert run_program(fail) == code
    assert capsys.readouterr().err == (f"error: {error}\n" if rank == "0" else "")
