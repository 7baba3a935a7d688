"""Training program of the image torchtitan: torchtitan's Llama 3 with its FSDP and tensor parallelism."""

import argparse
import sys

from llama.options import SMOKE
from llama.program import open_llama_batches, run_llama
from training.options import end_process, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    parallel = parser.add_argument_group("parallelism and memory")
    parallel.add_argument(
        "--tensor-parallel",
        type=positive_int,
        default=1,
        metavar="N",
        help="split each layer over N neighbouring ranks; the rest of the ranks shard the data (default: 1)",
    )
    parallel.add_argument(
        "--activation-checkpoint",
        choices=("none", "selective", "full"),
        default="selective",
        help="activations that the backward pass recomputes (default: %(default)s)",
    )
    parallel.add_argument(
        "--async-checkpoint",
        action="store_true",
        help="write checkpoints in the background, from a copy in host memory",
    )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from titan import TitanLlama, shard_of
    from training.torch_ranks import run

    return run(options, TitanLlama, open_llama_batches, shard_of)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train torchtitan's Llama 3 with its FSDP and tensor parallelism.",
        start=start,
        add_options=add_options,
        smoke=SMOKE | {"activation_checkpoint": "none"},
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
