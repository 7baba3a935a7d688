"""Workers of a TensorFlow program: strategy, agreement on errors, profiler."""

import json
import os
import pickle
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from cluster import find_cluster
from training.errors import RankError
from training.ranks import Ranks
from training.tracing import traced


@dataclass(frozen=True, kw_only=True)
class TensorFlowRanks(Ranks):
    """Worker of a MultiWorkerMirroredStrategy; a worker has a replica on each of its GPUs."""

    strategy: tf.distribute.Strategy
    gather_rows: Callable[[Any], Any]

    def mean_and_any(self, loss: Any, flags: list[bool]) -> tuple[float, list[bool]]:
        # The loss is the mean over all replicas already.
        found = self._gathered(np.array(flags, dtype=np.int32)).any(axis=0)
        return float(loss), found.tolist()

    def gather(self, value: Any) -> list[Any]:
        # TensorFlow's collectives cannot transfer bytes, so each byte becomes an int32.
        content = np.frombuffer(pickle.dumps(value), dtype=np.uint8).astype(np.int32)
        lengths = self._gathered(np.array([len(content)], dtype=np.int32))[:, 0]
        rows = self._gathered(np.pad(content, (0, int(lengths.max()) - len(content))))
        texts = (row[:length].astype(np.uint8) for row, length in zip(rows, lengths, strict=True))
        return [pickle.loads(text.tobytes()) for text in texts]

    def _gathered(self, row: Any) -> Any:
        """Return the rows of all workers."""
        found = self.strategy.experimental_local_results(self.gather_rows(row))[0].numpy()
        return found[:: len(self.strategy.extended.worker_devices)]  # replicas of a worker add the same row

    def profiled(self, options: Namespace) -> AbstractContextManager[Callable[[], None]]:
        if not options.profile or not self.is_first:
            return super().profiled(options)
        start = partial(tf.profiler.experimental.start, str(options.profile))
        return traced(options.profile_step, start=start, stop=tf.profiler.experimental.stop)


@contextmanager
def connect(options: Namespace) -> Iterator[TensorFlowRanks]:
    """Join the other workers of TF_CONFIG for the block."""
    if options.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    gpus = tf.config.get_visible_devices("GPU")
    if options.device == "cuda" and not gpus:
        raise RankError(f"--device cuda: TensorFlow {tf.__version__} finds no GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, enable=True)
    config = find_cluster(os.environ, options.timeout_s)
    if config:
        os.environ["TF_CONFIG"] = config
    workers, rank = place(config)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise RankError(f"TensorFlow cannot join the other workers: {error}") from error
    ranks = TensorFlowRanks(
        rank=rank,
        world_size=workers,
        restart=int(os.environ.get("TRAINING_RESTART", "0")),
        framework=f"tensorflow {tf.__version__}",
        device_type="cuda" if gpus else "cpu",
        backend=f"{strategy.num_replicas_in_sync} replicas",
        strategy=strategy,
        gather_rows=row_gatherer(strategy),
    )
    yield ranks
    ranks.gather(None)  # the first worker serves the others, so it must not end before them


def row_gatherer(strategy: tf.distribute.Strategy) -> Callable[[Any], Any]:
    """Return a compiled function that gathers a row of integers of each replica."""

    def gather(row: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(row[None], axis=0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def gather_rows(row: tf.Tensor) -> Any:
        return strategy.run(gather, (row,))

    return gather_rows


def place(text: str) -> tuple[int, int]:
    """Return the number of workers and this worker's rank from TF_CONFIG; (1, 0) if it is empty."""
    if not text:
        return 1, 0
    try:
        config = json.loads(text)
        return len(config["cluster"]["worker"]), int(config["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise RankError(f"TF_CONFIG is not a cluster of workers with a task: {text[:200]}") from error
