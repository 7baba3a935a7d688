"""Training program of the image picotron: Llama with data, pipeline and tensor parallelism."""

import argparse
import sys

from llama.options import SMOKE
from llama.program import open_llama_batches, run_llama
from run_file import expanded
from training.options import end_process, positive_int, run_program

EXAMPLE = (
    "Start it with torchrun:\n"
    "  torchrun --standalone --nproc-per-node 2 train.py --smoke\n"
    "  torchrun --standalone --nproc-per-node 8 train.py --config run/config.json   # of create_config.py"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parallel = parser.add_argument_group("parallelism")
    parallel.add_argument(
        "--tensor-parallel",
        type=positive_int,
        default=1,
        metavar="N",
        help="split each layer over N neighbouring ranks (default: 1)",
    )
    parallel.add_argument(
        "--pipeline-parallel",
        type=positive_int,
        default=1,
        metavar="N",
        help="split the layers into N stages (default: 1)",
    )
    parallel.add_argument(
        "--data-parallel",
        type=positive_int,
        metavar="N",
        help="replicas of the model (default: as many as the ranks allow)",
    )
    parallel.add_argument(
        "--micro-batches",
        type=positive_int,
        default=1,
        metavar="N",
        help="parts of --batch-size that are processed one after the other; at least as many as stages "
        "(default: 1)",
    )
    parallel.add_argument(
        "--pipeline-engine",
        choices=("1f1b", "afab"),
        default="1f1b",
        help="order of the micro-batches: alternately forward and backward, or all forward first "
        "(default: %(default)s)",
    )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from layout import shard_of
    from parallel import Picotron
    from training.torch_ranks import run

    return run(options, Picotron, open_llama_batches, shard_of)


def train(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama with data, pipeline and tensor parallelism, from run files of picotron.",
        start=start,
        add_options=add_options,
        smoke=SMOKE | {"pipeline_parallel": 2, "micro_batches": 4},
        example=EXAMPLE,
    )


def main(argv: list[str]) -> int:
    return run_program(lambda: train(expanded(argv)))


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
