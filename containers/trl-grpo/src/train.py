"""Training program of the image trl-grpo: reinforcement learning with GRPO of TRL, on your own prompts."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.options import (
    add_cache_option,
    end_process,
    make_parser,
    parse_options,
    positive_int,
    run_program,
)

SMOKE = {
    "steps": 24,
    "batch_size": 8,
    "generations": 8,
    "completion_tokens": 8,
    "checkpoint_every": 12,
    "log_every": 1,
    "learning_rate": 1e-2,
    "timeout_s": 120,
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser(
        description="Train a language model with GRPO of TRL, which prefers answers better than average.",
        steps=1000,
        batch_size=8,
        learning_rate=1e-6,
    )
    model = parser.add_argument_group("model and reward")
    model.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="folder of a Hugging Face model and its tokenizer. If omitted, a tiny model with random weights",
    )
    model.add_argument(
        "--generations",
        type=positive_int,
        default=8,
        metavar="N",
        help="answers per prompt (default: %(default)s)",
    )
    model.add_argument(
        "--completion-tokens",
        type=positive_int,
        default=256,
        metavar="N",
        help="longest answer (default: %(default)s)",
    )
    model.add_argument(
        "--reward",
        type=Path,
        metavar="FILE",
        help="Python file with a function reward(prompts, completions, answer, **others) that returns a "
        "number for each completion (default: 1 if it contains the expected answer)",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help=".jsonl files or folders, or s3://BUCKET/PREFIX, with the keys prompt and answer; the reward of "
        "an answer is 1 if it contains the expected one. If omitted, prompts that ask for the letter a",
    )
    add_cache_option(data)
    return parse_options(parser, argv, smoke=SMOKE)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)

    def start() -> int:
        # Imported late, so that --help and invalid options work without loading PyTorch.
        from grpo import run

        return run(options)

    return run_program(start)


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
