"""Training program of the image deepspeed: ZeRO data parallelism for a Llama-style model."""

import argparse
import sys
from pathlib import Path

from llama.program import open_llama_batches, run_llama
from training.options import end_process


def add_options(parser: argparse.ArgumentParser) -> None:
    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--zero-stage",
        type=int,
        choices=(0, 1, 2, 3),
        default=2,
        help="what the ranks shard: 1 optimizer state, 2 gradients as well, 3 weights as well "
        "(default: %(default)s)",
    )
    memory.add_argument(
        "--deepspeed-config",
        type=Path,
        metavar="FILE",
        help="JSON file with sections of DeepSpeed's configuration, in addition to those that options set",
    )
    memory.add_argument(
        "--activation-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="keep only the inputs of each layer and recompute activations in the backward pass",
    )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from training.torch_ranks import run
    from zero import ZeroLlama

    return run(options, ZeroLlama, open_llama_batches)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model with the ZeRO data parallelism of DeepSpeed.",
        start=start,
        add_options=add_options,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
