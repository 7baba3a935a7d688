"""Training program of the image mosaicml-mpt: an MPT model with the trainer of Composer."""

import argparse
import sys

from llama.config import LlamaConfig
from llama.program import open_llama_batches, run_llama
from training.options import end_process, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--microbatch-size",
        type=positive_int,
        metavar="N",
        help="examples of a rank that are computed at once, before the step (default: all)",
    )


def sizes_of(config: LlamaConfig) -> dict[str, object]:
    """Return the sizes of an MPT model: a layer has 12 x dim x dim weights and two norms."""
    parameters = config.vocabulary * config.dim + config.layers * (12 * config.dim**2 + 2 * config.dim)
    names = ("vocabulary", "dim", "layers", "heads", "sequence")
    return {**{name: getattr(config, name) for name in names}, "parameters": parameters + config.dim}


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from functools import partial

    import torch

    from mpt import ComposerMpt
    from training.torch_ranks import connect, run

    # Composer refuses a process group with a second backend.
    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    join = partial(connect, backend="nccl") if on_gpu else connect
    return run(options, ComposerMpt, open_llama_batches, join=join)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train an MPT model with the trainer of MosaicML Composer.",
        start=start,
        add_options=add_options,
        sizes_of=sizes_of,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
