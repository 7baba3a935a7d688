"""Training program of the image pytorch-ddp: data-parallel training of a Llama-style model."""

import argparse
import sys

from llama.program import open_llama_batches, run_llama
from training.options import end_process


def add_options(parser: argparse.ArgumentParser) -> None:
    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--activation-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="keep only the inputs of each layer and recompute activations in the backward pass",
    )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from llama.replicated import ReplicatedLlama
    from training.torch_ranks import run

    return run(options, ReplicatedLlama, open_llama_batches)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model with DistributedDataParallel: one replica per rank.",
        start=start,
        add_options=add_options,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
