"""Training program of the image stable-diffusion: the U-Net of a latent diffusion model."""

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

SMOKE = {
    "steps": 160,
    "checkpoint_every": 40,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "latent_size": 8,
    "width": 16,
    "blocks": 2,
    "classes": 10,
    "log_every": 40,
    "timeout_s": 60,
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser(
        description="Train the U-Net of a latent diffusion model with DistributedDataParallel.",
        steps=1000,
        batch_size=16,
        learning_rate=1e-4,
    )
    add_sizes(
        parser,
        ("--latent-size", 32, "width and height of the latents, an eighth of those of the images"),
        ("--width", 320, "channels of the first block; further blocks have multiples of it"),
        ("--blocks", 4, "blocks of the U-Net, each with half the resolution"),
        ("--classes", 1000, "number of classes that images are generated for"),
    )
    add_point_options(parser)
    options = parse_options(parser, argv, smoke=SMOKE)
    if options.width % 8 or options.latent_size % 2 ** (options.blocks - 1):
        parser.error(
            "--width must be a multiple of 8, and --latent-size divisible by 2 for each further block"
        )
    # The data are files of latents, which encode.py writes: 4 channels of latent-size x latent-size.
    options.features = 4 * options.latent_size**2
    return options


def main(argv: list[str]) -> int:
    options = parse(argv)

    def start() -> int | None:
        # Imported late, so that --help and invalid options work without loading PyTorch.
        from diffusion import LatentDiffusion
        from training.point_files import open_points
        from training.torch_ranks import run

        return run(options, LatentDiffusion, open_points)

    return run_program(start)


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
