"""Training program of the image smddp-deepspeed: DeepSpeed's ZeRO over SageMaker's data-parallel library."""

import argparse
import importlib.util
import sys
from pathlib import Path

import settings
from llama.program import open_llama_batches, run_llama
from training.errors import TrainingError
from training.options import end_process


def add_options(parser: argparse.ArgumentParser) -> None:
    settings.add_options(parser)
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path("/packages"),
        metavar="FOLDER",
        help="folder with DeepSpeed, which the image of the vendor lacks (default: %(default)s)",
    )


def find_deepspeed(folder: Path) -> None:
    """Import packages from the folder first, or raise TrainingError if it has no DeepSpeed."""
    sys.path.insert(0, str(folder))
    if importlib.util.find_spec("deepspeed") is None:
        lock = Path(__file__).with_name("packages.lock")
        raise TrainingError(
            f"{folder}: has no DeepSpeed; install it there: python3 -m pip install --no-deps "
            f"--no-build-isolation --require-hashes --target {folder} --requirement {lock}"
        )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from functools import partial

    from training.torch_ranks import connect, require_torchrun, run

    require_torchrun()
    find_deepspeed(options.packages)
    from zero import ZeroLlama

    make = partial(ZeroLlama, program="smddp-deepspeed")
    if options.device == "cpu":
        return run(options, make, open_llama_batches)
    # Registers the backend; on instances that it does not support, it uses NCCL.
    import smdistributed.dataparallel.torch.torch_smddp  # noqa: F401

    return run(options, make, open_llama_batches, join=partial(connect, backend="smddp"))


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model with DeepSpeed's ZeRO over SageMaker's collectives (SMDDP).",
        start=start,
        add_options=add_options,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
