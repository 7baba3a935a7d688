"""Training program of the image tensorflow-distributed: a Llama-style decoder on several workers."""

import argparse
import sys

from llama.program import open_llama_batches, run_llama
from training.options import end_process

EXAMPLE = (
    "Start one process per node with TF_CONFIG, or with workers.py several on a machine without GPUs:\n"
    "  python workers.py --processes 2 train.py --smoke"
)


def start(options: argparse.Namespace) -> int:
    # Imported late, so that --help, --print-config and invalid options work without loading TensorFlow.
    from mirrored import MirroredDecoder
    from tf_ranks import connect
    from training.loop import Training, finish
    from training.sampling import Shard
    from training.stopping import StopRequest

    stop = StopRequest()
    with connect(options) as ranks:
        shard = Shard(index=ranks.rank, count=ranks.world_size)
        batches = ranks.together(lambda: open_llama_batches(options, shard))
        result = Training(MirroredDecoder(options, ranks), batches, options, ranks, stop).run()
        return finish(result, is_first=ranks.is_first)


def main(argv: list[str]) -> int:
    return run_llama(
        argv,
        description="Train a Llama-style decoder with TensorFlow's MultiWorkerMirroredStrategy.",
        start=start,
        example=EXAMPLE,
    )


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
