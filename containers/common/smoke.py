"""Test on a single machine that a training program survives the loss of a process.

Starts the program with torchrun or workers.py, kills a rank after the first checkpoint, and expects that
the launcher restarts the ranks, that they resume from the checkpoint and repeat the same losses, and that the
loss falls or the reward rises. Prints one JSON line. Needs only the standard library and the program's
Python.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from types import FrameType

from training.checkpoint import find_latest
from training.options import positive_int

LOG_TAIL_BYTES = 4_000
TICK_S = 0.02
# NCCL may sum in another order, which changes the last digits of a loss; a lost optimizer state changes it by
# more than the tolerance.
LOSS_TOLERANCE = 1e-5
# The first loss after a checkpoint depends only on the weights; later ones also depend on the optimizer
# state.
STEPS_PAST_CHECKPOINT = 3


class SmokeError(Exception):
    """Training failed, or did not resume as expected after the kill."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Line of the metrics file; with --metric reward, `loss` is the reward."""

    restart: int
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of the test; `repeated_steps` is the number of steps computed both before and after the kill."""

    killed_rank: int
    killed_after_step: int
    resumed_from_step: int
    repeated_steps: int
    seconds: float
    result: dict[str, object]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train, kill one rank, and check that training resumes and the loss falls.",
        epilog="Other arguments are passed to the program after --smoke.",
    )
    parser.add_argument("program", type=Path, help="the training program, for example train.py")
    parser.add_argument(
        "--launcher", choices=("torchrun", "workers"), default="torchrun", help="(default: %(default)s)"
    )
    parser.add_argument("--ranks", type=positive_int, default=2, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--kill-rank", type=int, default=1, metavar="R", help="the rank to kill (default: %(default)s)"
    )
    parser.add_argument(
        "--metric",
        choices=("loss", "reward"),
        default="loss",
        help="value of the metrics to compare: a loss must halve, a reward double (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout-s",
        type=positive_int,
        default=120,
        metavar="S",
        help="timeout of the whole test in seconds (default: %(default)s)",
    )
    options, program_arguments = parser.parse_known_args(argv)
    options.program_arguments = program_arguments
    if not 0 <= options.kill_rank < options.ranks:
        parser.error(f"--kill-rank {options.kill_rank} is not one of the {options.ranks} ranks")
    if not options.program.is_file():
        parser.error(f"program {options.program} does not exist")
    return options


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        log = Path(folder, "log")
        try:
            outcome = run_test(options, Path(folder), log)
        except SmokeError as error:
            tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if log.exists() else ""
            print(f"{tail}\nerror: {error}", file=sys.stderr)
            return 1
    print(json.dumps(asdict(outcome)))
    return 0


def run_test(options: argparse.Namespace, folder: Path, log: Path) -> Outcome:
    """Start the training, kill a rank, wait for the end and check the losses."""
    began = monotonic()
    deadline = began + options.timeout_s
    metrics, checkpoints = folder / "metrics", folder / "checkpoints"
    run_id = f"smoke-{os.getpid()}"
    command = [
        *launcher_command(options, run_id),
        *(str(options.program), "--smoke", "--metrics", str(metrics)),
        *("--checkpoint-dir", str(checkpoints), *options.program_arguments),
    ]
    with launched(command, run_id, log) as (launcher, stdout):

        def past_checkpoint() -> bool:
            latest = find_latest(checkpoints)
            losses = read_losses(metrics, options.metric)
            return latest is not None and losses[-1].step >= latest.progress.step + STEPS_PAST_CHECKPOINT

        wait_until(past_checkpoint, launcher, deadline, what="a checkpoint and later steps")
        kill_rank(options.kill_rank, run_id)
        code = wait_for_end(launcher, deadline)
        if code != 0:
            raise SmokeError(f"the launcher ended with exit code {code}")
        result = read_result(stdout)
    losses = read_losses(metrics, options.metric)
    killed_after_step = max(line.step for line in losses if line.restart == 0)
    return Outcome(
        killed_rank=options.kill_rank,
        killed_after_step=killed_after_step,
        resumed_from_step=check_resumption(result),
        repeated_steps=check_losses(losses, options.metric),
        seconds=round(monotonic() - began, 1),
        result=result,
    )


def launcher_command(options: argparse.Namespace, run_id: str) -> list[str]:
    if options.launcher == "workers":
        workers = Path(__file__).with_name("workers.py")
        command = [sys.executable, str(workers), "--run-id", run_id, "--processes", str(options.ranks)]
        return [*command, "--max-restarts", "1"]
    # --standalone would resolve the host name and hang if DNS does not answer.
    return [
        find_torchrun(),
        *("--nnodes", "1", "--nproc-per-node", str(options.ranks), "--max-restarts", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--rdzv-id", run_id),
        *("--local-addr", "127.0.0.1"),
    ]


def find_torchrun() -> str:
    found = shutil.which("torchrun")
    if found is None:
        raise SmokeError("torchrun is not on PATH; use the PATH of the image")
    return found


@contextmanager
def launched(command: list[str], run_id: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start the launcher for the block; kill it and all its ranks afterwards."""
    defaults = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment = defaults | dict(os.environ) | {"TMPDIR": str(log.parent)}
    stdout = log.with_suffix(".stdout")
    with stdout.open("wb") as out, log.open("wb") as err:
        launcher = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        try:
            yield launcher, stdout
        finally:
            # The launcher is killed first, because it would restart killed ranks, which have their own
            # sessions.
            launcher.kill()
            launcher.wait()
            for pid in find_ranks(run_id).values():
                kill(pid)


def wait_until(
    condition: Callable[[], bool], launcher: "subprocess.Popen[bytes]", deadline: float, *, what: str
) -> None:
    while not condition():
        if monotonic() > deadline:
            raise SmokeError(f"no {what.removeprefix('a ')} within --timeout-s")
        try:
            code = launcher.wait(timeout=TICK_S)
        except subprocess.TimeoutExpired:
            continue
        raise SmokeError(f"the launcher ended with exit code {code} before writing {what}")


def wait_for_end(launcher: "subprocess.Popen[bytes]", deadline: float) -> int:
    try:
        return launcher.wait(timeout=max(0.0, deadline - monotonic()))
    except subprocess.TimeoutExpired as error:
        raise SmokeError("training did not end within --timeout-s") from error


def kill_rank(rank: int, run_id: str) -> None:
    pid = find_ranks(run_id).get(rank)
    if pid is None:
        raise SmokeError(f"found no process of rank {rank} to kill; training ended too early")
    kill(pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # already ended


def find_ranks(run_id: str) -> dict[int, int]:
    """Return the process ID of each rank; environment variables of the launcher identify the processes."""
    ranks = {}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = entry.read_bytes().decode(errors="replace")
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue  # the process ended or belongs to another user
        environment = dict(item.partition("=")[::2] for item in content.split("\0"))
        names = (environment.get("TORCHELASTIC_RUN_ID"), environment.get("TRAINING_RUN_ID"))
        if run_id in names and "RANK" in environment:
            ranks[int(environment["RANK"])] = int(entry.parent.name)
    return ranks


def read_losses(metrics: Path, metric: str = "loss") -> list[Loss]:
    if not metrics.exists():
        return []
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [Loss(restart=line["restart"], step=line["step"], loss=line[metric]) for line in whole]


def read_result(stdout: Path) -> dict[str, object]:
    # gloo also prints lines on stdout; only the result is JSON.
    lines = [line for line in stdout.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise SmokeError(f"expected one line with the result on stdout, got {len(lines)}")
    result: dict[str, object] = json.loads(lines[0])
    return result


def check_resumption(result: dict[str, object]) -> int:
    step = result["resumed_from_step"]
    if not isinstance(step, int) or step < 1 or result["restarts"] != 1 or not result["finished"]:
        raise SmokeError(f"training did not resume from a checkpoint after one restart: {result}")
    return step


def check_losses(losses: list[Loss], metric: str = "loss") -> int:
    """Return the number of repeated steps; raise SmokeError if values differ or did not improve enough."""
    before = {line.step: line.loss for line in losses if line.restart == 0}
    after = {line.step: line.loss for line in losses if line.restart == 1}
    repeated = sorted(before.keys() & after.keys())
    for step in repeated:
        if not math.isclose(before[step], after[step], rel_tol=LOSS_TOLERANCE):
            raise SmokeError(
                f"step {step} had {metric} {before[step]} before and {after[step]} after the restart"
            )
    first, last = before[min(before)], after[max(after)]
    if metric == "loss" and last > first / 2:
        raise SmokeError(f"the loss went from {first} to {last}; expected at most half")
    if metric == "reward" and last < first * 2:
        raise SmokeError(f"the reward went from {first} to {last}; expected at least twice as much")
    return len(repeated)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    # SystemExit runs the cleanup of `launched`.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _exit_on_signal)
    sys.exit(main(sys.argv[1:]))
