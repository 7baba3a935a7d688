"""Training program of the image cpu-ddp: data-parallel training of a small classifier."""

import argparse
import sys

from training.options import (
    add_point_options,
    add_sizes,
    end_process,
    make_parser,
    parse_options,
    run_program,
)

SMOKE = {"steps": 160, "checkpoint_every": 40, "batch_size": 256, "log_every": 40, "timeout_s": 60}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser(
        description="Train a small classifier with DistributedDataParallel.",
        steps=1000,
        batch_size=256,
        learning_rate=1e-3,
    )
    add_sizes(
        parser,
        ("--features", 64, "number of features of an example"),
        ("--classes", 10, "number of classes"),
        ("--width", 256, "width of the hidden layers"),
        ("--depth", 4, "number of hidden layers"),
    )
    add_point_options(parser)
    return parse_options(parser, argv, smoke=SMOKE)


def main(argv: list[str]) -> int:
    options = parse(argv)

    def start() -> int | None:
        # Imported late, so that --help and invalid options work without loading PyTorch.
        from classifier import Classification
        from training.point_files import open_points
        from training.torch_ranks import run

        return run(options, Classification, open_points)

    return run_program(start)


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
