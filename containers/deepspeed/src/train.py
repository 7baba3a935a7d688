"""Training program of the image deepspeed: ZeRO data parallelism for a Llama-style model."""

import argparse
import sys

from llama.program import open_llama_batches, run_llama
from settings import add_options
from training.options import end_process


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
