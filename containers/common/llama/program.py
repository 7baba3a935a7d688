"""Command line of the programs that train the Llama-style model. Imports no PyTorch."""

import argparse
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

from llama.config import LlamaConfig, sizes_of
from llama.options import SMOKE, add_model_options, chosen_config, chosen_length, describe
from training.options import TORCHRUN_EXAMPLE, add_data_options, make_parser, parse_options, run_program


def run_llama(
    argv: Sequence[str],
    *,
    description: str,
    start: Callable[[Namespace], int],
    add_options: Callable[[argparse.ArgumentParser], None] = lambda _: None,
    smoke: Mapping[str, object] = SMOKE,
    example: str = TORCHRUN_EXAMPLE,
    sizes_of: Callable[[LlamaConfig], dict[str, object]] = sizes_of,
) -> int:
    """Parse the options, print the sizes or start the training; return the exit code."""
    parser = make_parser(
        description=description, steps=1000, batch_size=1, learning_rate=3e-4, example=example
    )
    add_model_options(parser)
    add_data_options(parser)
    add_options(parser)
    options = parse_options(parser, argv, smoke=smoke)

    def run() -> int:
        if options.print_config:
            print(describe(options, sizes_of(chosen_config(options))))
            return 0
        # A wrong configuration file is reported before PyTorch is loaded.
        chosen_config(options)
        return start(options)

    return run_program(run)


def open_llama_batches(options: Namespace, shard: object) -> object:
    """Return the batches for the model's vocabulary and sequence length."""
    # Imported late, so that --help works without NumPy.
    from training.data import open_tokens

    config = chosen_config(options)
    return open_tokens(options, shard, vocabulary=config.vocabulary, length=chosen_length(options))
