"""Processes of a JAX program: connection, agreement on errors, profiler."""

import os
import pickle
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from training.errors import RankError
from training.ranks import Ranks
from training.tracing import traced


class JaxRanks(Ranks):
    """Process of a JAX program; a process may hold several devices."""

    def mean_and_any(self, loss: Any, flags: list[bool]) -> tuple[float, list[bool]]:
        # The loss is the mean over the global batch already, because the computation spans all devices.
        if self.world_size > 1:
            flags = multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist()
        return float(loss), flags

    def gather(self, value: Any) -> list[Any]:
        if self.world_size == 1:
            return [value]
        content = np.frombuffer(pickle.dumps(value), dtype=np.uint8)
        lengths = multihost_utils.process_allgather(np.array(len(content)))
        padded = np.zeros(int(lengths.max()), dtype=np.uint8)
        padded[: len(content)] = content
        rows = multihost_utils.process_allgather(padded)
        return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]

    def profiled(self, options: Namespace) -> AbstractContextManager[Callable[[], None]]:
        if not options.profile or not self.is_first:
            return super().profiled(options)
        start = partial(jax.profiler.start_trace, options.profile, create_perfetto_trace=True)
        return traced(options.profile_step, start=start, stop=jax.profiler.stop_trace)


@contextmanager
def connect(options: Namespace) -> Iterator[JaxRanks]:
    """Join the other processes, which workers.py or Slurm started, for the block; do nothing without them."""
    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if "RANK" in os.environ:
            jax.distributed.initialize(
                os.environ["JAX_COORDINATOR_ADDRESS"],
                num_processes=int(os.environ["WORLD_SIZE"]),
                process_id=int(os.environ["RANK"]),
                initialization_timeout=options.timeout_s,
            )
        elif int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            jax.distributed.initialize(initialization_timeout=options.timeout_s)
        devices = jax.devices()
    except (KeyError, RuntimeError, ValueError) as error:
        reason = f"{error} is not set" if isinstance(error, KeyError) else error
        raise RankError(f"JAX cannot join the other processes: {reason}") from error
    if options.device == "cuda" and devices[0].platform != "gpu":
        raise RankError(f"--device cuda: JAX {jax.__version__} finds no GPU, only {devices[0].platform}")
    yield JaxRanks(
        rank=jax.process_index(),
        world_size=jax.process_count(),
        restart=int(os.environ.get("TRAINING_RESTART", "0")),
        framework=f"jax {jax.__version__}",
        device_type=devices[0].platform,
        backend=f"{len(devices)} devices",
    )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("end")
        jax.distributed.shutdown()
