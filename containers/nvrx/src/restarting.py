"""Training that restarts inside its processes after a fault, with NVIDIA's resiliency extension.

The processes, their CUDA contexts and imported modules survive; process groups and the model are recreated.
"""

import os
import socket
from argparse import Namespace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from nvidia_resiliency_ext import inprocess

from llama.program import open_llama_batches
from llama.replicated import ReplicatedLlama
from training.errors import RankError, TrainingError
from training.loop import Result, Training
from training.sampling import Shard
from training.stopping import StopRequest
from training.torch_ranks import connect, require_torchrun


class InjectedError(Exception):
    """Fault that --fail-at-step asks for."""


class Failing(ReplicatedLlama):
    """Workload that raises an error at a step of the first attempt, on the last rank."""

    program = "nvrx"

    def train_step(self, step: int, batch: Any) -> torch.Tensor:
        is_last = self._ranks.rank == self._ranks.world_size - 1
        if step == self._options.fail_at_step and is_last and self._ranks.restart == 0:
            raise InjectedError(f"fault injected at step {step}")
        return super().train_step(step, batch)


def run(options: Namespace) -> Result | TrainingError:
    """Train, restarting in process after faults; return the result, or the error that all ranks agreed on."""
    require_torchrun()
    stop = StopRequest()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # All attempts share a store, because the port of a closed store stays busy; each has its own prefix.
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, world_size, is_master=rank == 0)
    if rank == 0:
        store.set("restarter-port", str(free_port()))
    limit = timedelta(seconds=options.timeout_s)

    def attempt(call: inprocess.CallWrapper = None) -> Result | TrainingError:  # type: ignore[assignment]
        try:
            return train(options, dist.PrefixStore(f"attempt-{call.iteration}", store), call.iteration, stop)
        except TrainingError as error:
            # Another attempt would fail in the same way, so the error is returned instead of raised.
            return error

    wrapped = inprocess.Wrapper(
        store_kwargs={"host_name": host, "port": int(store.get("restarter-port")), "timeout": limit},
        soft_timeout=limit,
        hard_timeout=limit * 2,
        barrier_timeout=limit * 3,
        completion_timeout=limit * 3,
    )(attempt)
    found = wrapped()
    if found is None:
        raise RankError("this rank is in reserve: fewer ranks train after a fault")
    return found


def free_port() -> int:
    """Return a port that no process of this node uses."""
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port


def train(options: Namespace, store: dist.Store, restart: int, stop: StopRequest) -> Result:
    with connect(options, store=store, restart=restart) as ranks:
        shard = Shard(index=ranks.rank, count=ranks.world_size)
        batches = ranks.together(lambda: open_llama_batches(options, shard))
        return Training(Failing(options, ranks), batches, options, ranks, stop).run()
