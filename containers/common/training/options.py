"""Command line options of all training programs, and the handling of their errors and exit codes.

Imports no third-party package, so `--help` works without PyTorch and without delay.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from training.errors import TrainingError

EXIT_FAILED = 1
EXIT_TERMINATED = 143  # 128 + SIGTERM: stopped on request, not finished


def positive_int(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return number


def positive_float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive finite number")
    return number


def make_parser(
    *, description: str, steps: int, batch_size: int, learning_rate: float
) -> argparse.ArgumentParser:
    """Return a parser with the shared options, to which each program adds its own."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Start it with torchrun:\n  torchrun --standalone --nproc-per-node 2 train.py --smoke",
        # RawDescriptionHelpFormatter does not wrap the example on narrow terminals.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device: cuda uses one GPU per rank and NCCL, cpu uses gloo; "
        "auto selects cuda if there is a GPU (default: auto)",
    )
    run.add_argument(
        "--smoke",
        action="store_true",
        help="train a small model for a few seconds on two cores; other options override its presets",
    )
    run.add_argument(
        "--steps",
        type=positive_int,
        default=steps,
        metavar="N",
        help="total optimizer steps, including steps before a restart (default: %(default)s)",
    )
    run.add_argument(
        "--batch-size",
        type=positive_int,
        default=batch_size,
        metavar="N",
        help="examples per rank and step (default: %(default)s)",
    )
    run.add_argument(
        "--learning-rate",
        type=positive_float,
        default=learning_rate,
        metavar="X",
        help="peak learning rate (default: %(default)s)",
    )
    run.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the weights and the synthetic data (default: %(default)s)",
    )
    run.add_argument(
        "--timeout-s",
        type=positive_int,
        default=600,
        metavar="S",
        help="seconds that a rank waits for other ranks before it fails (default: %(default)s)",
    )
    keep = parser.add_argument_group("checkpoints")
    keep.add_argument(
        "--checkpoint-dir",
        type=Path,
        metavar="DIR",
        help="folder shared by all nodes; training resumes from its newest complete checkpoint. "
        "If omitted, nothing is saved and a restart begins at step 0",
    )
    keep.add_argument(
        "--checkpoint-every",
        type=positive_int,
        default=100,
        metavar="N",
        help="steps between checkpoints (default: %(default)s)",
    )
    keep.add_argument(
        "--keep-checkpoints",
        type=positive_int,
        default=2,
        metavar="N",
        help="complete checkpoints to keep; older ones are deleted (default: %(default)s)",
    )
    report = parser.add_argument_group("report")
    report.add_argument(
        "--log-every",
        type=positive_int,
        default=10,
        metavar="N",
        help="steps between progress lines on stderr (default: %(default)s)",
    )
    report.add_argument(
        "--metrics",
        type=Path,
        metavar="FILE",
        help="append a JSON line per step: restart, step, loss",
    )
    return parser


def parse_options(
    parser: argparse.ArgumentParser, argv: Sequence[str], *, smoke: Mapping[str, object]
) -> argparse.Namespace:
    """Parse argv; with --smoke, the preset replaces the defaults of options that are not given."""
    options = parser.parse_args(argv)
    if options.smoke:
        parser.set_defaults(**smoke)
        options = parser.parse_args(argv)
    return options


def run_program(start: Callable[[], int | None]) -> int:
    """Run the part that needs PyTorch and return the exit code; print a TrainingError as one line."""
    where = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
    try:
        return start() or 0
    except TrainingError as error:
        print(f"error{where}: {error}", file=sys.stderr, flush=True)
    except ModuleNotFoundError as error:
        print(
            f"error{where}: {sys.executable} has no package '{error.name}'; "
            "use the Python of the image, /opt/venv/bin/python",
            file=sys.stderr,
            flush=True,
        )
    return EXIT_FAILED


def end_process(code: int) -> NoReturn:
    """Flush the outputs and exit without interpreter shutdown.

    In PyTorch 2.13.0 a finished rank may be aborted during interpreter shutdown ("terminate called without
    an active exception": a thread of the library outlives its owner), which torchrun reports as a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
