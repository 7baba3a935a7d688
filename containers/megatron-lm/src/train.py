"""Training program of the image megatron-lm: GPT model of Megatron-Core with tensor parallelism."""

import argparse
import sys

from llama.options import SMOKE
from llama.program import open_llama_batches, run_llama
from training.options import end_process, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    parallel = parser.add_argument_group("parallelism")
    parallel.add_argument(
        "--tensor-parallel",
        type=positive_int,
        default=1,
        metavar="N",
        help="split each layer over N neighbouring ranks; the rest of the ranks replicate it (default: 1)",
    )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from llama.sharding import tensor_parallel_shard
    from tensor_parallel import MegatronGpt
    from training.torch_ranks import run

    return run(options, MegatronGpt, open_llama_batches, tensor_parallel_shard)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a GPT model of Megatron-Core with tensor and data parallelism.",
        start=start,
        add_options=add_options,
        smoke=SMOKE | {"tensor_parallel": 2},
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
