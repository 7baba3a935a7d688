"""Training program of the image pytorch-fsdp: fully sharded training of a Llama-style model."""

import argparse
import sys

from llama.program import open_llama_batches, run_llama
from training.options import end_process, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    sharding = parser.add_argument_group("sharding and memory")
    sharding.add_argument(
        "--shard-ranks",
        type=positive_int,
        metavar="N",
        help="shard within groups of N ranks (for example, of a node) and replicate across the groups "
        "(default: shard over all ranks)",
    )
    sharding.add_argument(
        "--activation-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep only the inputs of each layer and recompute activations in the backward pass",
    )
    sharding.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="compute precision; weights and gradient reduction stay in fp32. "
        "auto selects bf16 on GPUs that support it (default: auto)",
    )
    sharding.add_argument(
        "--async-checkpoint",
        action="store_true",
        help="write checkpoints in the background, from a copy in host memory",
    )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from sharded import ShardedLlama
    from training.torch_ranks import run

    return run(options, ShardedLlama, open_llama_batches)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model with FSDP2 (fully_shard).",
        start=start,
        add_options=add_options,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
