"""Training program of the image smp-modelparallel: training sharded by SageMaker's library."""

import argparse
import sys

from llama.program import open_llama_batches, run_llama
from training.options import end_process, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    parallel = parser.add_argument_group("parallelism")
    parallel.add_argument(
        "--shard-degree",
        type=positive_int,
        default=8,
        metavar="N",
        help="ranks that share the parameters, for example those of a node (default: 8)",
    )
    # Recomputing activations is an option of the shared model that this program leaves off.
    parser.set_defaults(activation_checkpointing=False)


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from functools import partial

    from fully_sharded import FullyShardedLlama
    from training.torch_ranks import run

    make = partial(FullyShardedLlama, program="smp-modelparallel")
    if options.device == "cpu":
        return run(options, make, open_llama_batches)
    from sagemaker_ranks import connect

    return run(options, partial(make, in_groups=True), open_llama_batches, join=connect)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model sharded by SageMaker's model-parallel library 2 (SMP).",
        start=start,
        add_options=add_options,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
