"""Command line options of all training programs, and the handling of their errors and exit codes.

Imports no third-party package, so `--help` works without PyTorch and without delay.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from training.errors import EXIT_CONFIGURATION, RankError, TrainingError

TORCHRUN_EXAMPLE = "Start it with torchrun:\n  torchrun --standalone --nproc-per-node 2 train.py --smoke"
EXIT_CODES = (
    "exit codes: 0 done; 2 options; 65 data; 74 a checkpoint cannot be written or read; 78 configuration;\n"
    "  143 stopped by SIGTERM after a checkpoint; 1 or 128 + signal: a crash, which a restart may cure"
)


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
    *,
    description: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    example: str = TORCHRUN_EXAMPLE,
) -> argparse.ArgumentParser:
    """Return a parser with the shared options, to which each program adds its own."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"{example}\n\n{EXIT_CODES}",
        # RawDescriptionHelpFormatter does not wrap the example on narrow terminals.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_run_options(parser, steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    _add_checkpoint_options(parser)
    _add_report_options(parser)
    return parser


def _add_run_options(
    parser: argparse.ArgumentParser, *, steps: int, batch_size: int, learning_rate: float
) -> None:
    run = parser.add_argument_group("run")
    run.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device: auto selects the GPUs if there are any; with PyTorch, cuda uses one GPU per rank and "
        "NCCL, cpu uses gloo (default: auto)",
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
        help="seed of the weights and of the order of the data (default: %(default)s)",
    )
    run.add_argument(
        "--timeout-s",
        type=positive_int,
        default=600,
        metavar="S",
        help="seconds that a rank waits for other ranks before it fails (default: %(default)s)",
    )


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
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


def _add_report_options(parser: argparse.ArgumentParser) -> None:
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
        help="append a JSON line per step: restart, step, loss, seconds, throughput",
    )
    report.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="write a trace of three steps of the first rank, for chrome://tracing or Perfetto",
    )
    report.add_argument(
        "--profile-step",
        type=positive_int,
        default=10,
        metavar="N",
        help="first step in the trace, counted from the start of this process (default: %(default)s)",
    )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    data = _add_data_group(
        parser,
        "files or folders, or s3://BUCKET/PREFIX: token files (.bin, .npy) as prepare.py writes them, or "
        "text (.txt with a document per line, .jsonl). If omitted, synthetic data",
    )
    add_tokenizer_options(data)


def add_tokenizer_options(
    group: "argparse.ArgumentParser | argparse._ArgumentGroup", *, required: bool = False
) -> None:
    group.add_argument(
        "--tokenizer",
        required=required,
        metavar="FILE",
        help="tokenizer.json of the model, or 'bytes'; needed for text, checked for token files",
    )
    group.add_argument(
        "--text-key", default="text", metavar="KEY", help="key of the text in .jsonl (default: %(default)s)"
    )


def add_cache_option(group: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--cache-dir",
        type=Path,
        default=Path(tempfile.gettempdir(), "training-data"),
        metavar="DIR",
        help="folder of the node for copies of s3:// objects (default: %(default)s)",
    )


def add_sizes(parser: argparse.ArgumentParser, *sizes: tuple[str, int, str]) -> None:
    """Add options for the sizes of a model, given as name, default and description of each option."""
    model = parser.add_argument_group("model")
    for name, default, what in sizes:
        model.add_argument(
            name, type=positive_int, default=default, metavar="N", help=f"{what} (default: %(default)s)"
        )


def add_point_options(parser: argparse.ArgumentParser) -> None:
    _add_data_group(
        parser,
        "files or folders, or s3://BUCKET/PREFIX: .npz files with the arrays points (examples x features) "
        "and labels. If omitted, synthetic data",
    )


def _add_data_group(parser: argparse.ArgumentParser, sources: str) -> "argparse._ArgumentGroup":
    data = parser.add_argument_group("data")
    data.add_argument("--data", nargs="+", metavar="PATH", help=sources)
    add_cache_option(data)
    data.add_argument(
        "--reset-data",
        action="store_true",
        help="begin at the start of the data when resuming, because they changed",
    )
    return data


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
    """Call `start`, which may import PyTorch; return the exit code; print a TrainingError as one line.

    All ranks raise the same TrainingError, so only the first prints it.
    """
    # Slurm starts the processes of JAX and TensorFlow, which have no launcher that sets RANK.
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    try:
        return start() or 0
    except TrainingError as error:
        if rank == "0" or isinstance(error, RankError):
            where = f" (rank {rank})" if isinstance(error, RankError) and "RANK" in os.environ else ""
            print(f"error{where}: {error}", file=sys.stderr, flush=True)
        return error.code
    except ModuleNotFoundError as error:
        if rank == "0":
            hint = "use the Python of the image, /opt/venv/bin/python"
            print(
                f"error: {sys.executable} has no package '{error.name}'; {hint}", file=sys.stderr, flush=True
            )
        return EXIT_CONFIGURATION


def end_process(code: int) -> NoReturn:
    """Flush the outputs and exit without interpreter shutdown.

    In PyTorch 2.13.0 a finished rank may be aborted during interpreter shutdown ("terminate called without
    an active exception": a thread of the library outlives its owner), which torchrun reports as a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
