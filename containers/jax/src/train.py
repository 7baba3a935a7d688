"""Training program of the image jax: training of a Llama-style decoder on all devices."""

import argparse
import sys

from llama.options import SMOKE
from llama.program import open_llama_batches, run_llama
from training.options import positive_int

EXAMPLE = (
    "Start one process per node, or with workers.py several on a machine without GPUs:\n"
    "  python train.py --smoke"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    devices = parser.add_argument_group("devices")
    devices.add_argument(
        "--cpu-devices",
        type=positive_int,
        default=1,
        metavar="N",
        help="devices of each process if it uses the CPU (default: %(default)s)",
    )


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading JAX.
    from data_parallel import JaxLlama
    from jax_ranks import connect
    from training.loop import Training, finish
    from training.sampling import Shard
    from training.stopping import StopRequest

    stop = StopRequest()
    with connect(options) as ranks:
        shard = Shard(index=ranks.rank, count=ranks.world_size)
        batches = ranks.together(lambda: open_llama_batches(options, shard))
        result = Training(JaxLlama(options, ranks), batches, options, ranks, stop).run()
        return finish(result, is_first=ranks.is_first)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style decoder with JAX, on all devices of all processes.",
        start=start,
        add_options=add_options,
        smoke=SMOKE | {"cpu_devices": 2},
        example=EXAMPLE,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
