"""Training program of the image smddp-fsdp: sharded training with SageMaker's data-parallel library."""

import argparse
import sys

from llama.program import open_llama_batches, run_llama
from training.options import end_process


def add_options(parser: argparse.ArgumentParser) -> None:
    # Recomputing activations is an option of the shared model that this program leaves off.
    parser.set_defaults(activation_checkpointing=False)


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from functools import partial

    from fully_sharded import FullyShardedLlama
    from training.torch_ranks import connect, run

    make = partial(FullyShardedLlama, program="smddp-fsdp")
    if options.device == "cpu":
        return run(options, make, open_llama_batches)
    # The import registers the backend smddp, which uses NCCL on EC2 types that it does not support.
    import smdistributed.dataparallel.torch.torch_smddp  # noqa: F401

    return run(options, make, open_llama_batches, join=partial(connect, backend="smddp"))


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model, sharded over SageMaker's collectives (SMDDP).",
        start=start,
        add_options=add_options,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
