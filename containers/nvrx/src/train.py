"""Training program of the image nvrx: data-parallel training that restarts in its processes after a fault."""

import argparse
import os
import sys

from llama.options import SMOKE
from llama.program import run_llama
from training.options import end_process, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("fault").add_argument(
        "--fail-at-step",
        type=positive_int,
        default=0,
        metavar="N",
        help="raise an error on the last rank at step N of the first attempt, to see a restart",
    )
    # Recomputing activations is an option of the shared model that this program leaves off.
    parser.set_defaults(activation_checkpointing=False)


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from restarting import run
    from training.errors import TrainingError
    from training.loop import finish

    result = run(options)
    if isinstance(result, TrainingError):
        raise result
    return finish(result, is_first=os.environ["RANK"] == "0")


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model that restarts in its processes after a fault (nvrx).",
        start=start,
        add_options=add_options,
        smoke=SMOKE | {"fail_at_step": 60},
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
