"""Training program of the image neuronx-distributed: data-parallel training on NeuronCores."""

import argparse
import sys

from llama.program import open_llama_batches, run_llama
from training.options import end_process


def add_options(parser: argparse.ArgumentParser) -> None:
    # Recomputing activations is an option of the shared model that this program leaves off.
    parser.set_defaults(activation_checkpointing=False)


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
    from training.torch_ranks import run

    if options.device == "cpu":
        from llama.replicated import ReplicatedLlama

        return run(options, ReplicatedLlama, open_llama_batches)
    from neuron import NeuronLlama, connect

    return run(options, NeuronLlama, open_llama_batches, join=connect)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style model on NeuronCores, with the optimizer state sharded over them; "
        "--device cpu shows the same options, data and checkpoints on any machine.",
        start=start,
        add_options=add_options,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
