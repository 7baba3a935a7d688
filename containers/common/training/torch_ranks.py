"""Ranks of PyTorch programs: process group, device, profiler, and the run of a workload under torchrun."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from training.data import Batches
from training.errors import RankError
from training.loop import Training, Workload, finish
from training.ranks import Ranks
from training.sampling import Shard
from training.stopping import StopRequest

# GPU machines also need gloo, for checkpoints and for small objects on the CPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
TRACED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class TorchRanks(Ranks):
    """Rank of this process in the process group of PyTorch, and its device."""

    device: torch.device

    def mean_and_any(self, loss: torch.Tensor, flags: list[bool]) -> tuple[float, list[bool]]:
        # A single reduction and a single transfer to the host for all values.
        values = torch.stack([loss.detach().float(), *(loss.new_tensor(float(f)).float() for f in flags)])
        dist.all_reduce(values)
        total, *found = values.tolist()
        return total / self.world_size, [value > 0 for value in found]

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value, group=_objects_group())
        return found

    @contextmanager
    def profiled(self, options: Namespace) -> Iterator[Callable[[], None]]:
        if not options.profile or not self.is_first:
            yield lambda: None
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] * (self.device.type == "cuda")
        wait = max(0, options.profile_step - 2)
        schedule = torch.profiler.schedule(wait=wait, warmup=1, active=TRACED_STEPS, repeat=1)
        options.profile.mkdir(parents=True, exist_ok=True)
        trace = options.profile / f"trace-{options.profile_step}.json"
        with torch.profiler.profile(
            activities=activities,
            schedule=schedule,
            on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(trace)),
        ) as profiler:
            yield profiler.step


def _objects_group() -> "dist.ProcessGroup | None":
    """Return the process group for Python objects; it uses gloo, because only the CPU knows their size."""
    return _groups.get("objects")


_groups: dict[str, "dist.ProcessGroup"] = {}
# Ended groups stay in memory until the process ends: in PyTorch 2.7, the destructor of a gloo group can wait
# forever for a thread that itself waits for the global interpreter lock.
_ended: list["dist.ProcessGroup | None"] = []


def require_torchrun() -> None:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise RankError(
            "this program must be started by torchrun, "
            "for example: torchrun --standalone --nproc-per-node 2 train.py --smoke"
        )


@contextmanager
def connect(
    options: Namespace,
    *,
    store: dist.Store | None = None,
    restart: int | None = None,
    device: torch.device | None = None,
    backend: str = "",
) -> Iterator[TorchRanks]:
    """Join the process group for the block, with the parameters that torchrun sets in the environment.

    A program that restarts in its processes passes `store` and `restart`, a program for another accelerator
    passes `device`, and a program with its own collectives passes `backend`.
    """
    require_torchrun()
    _warn_of_stale_store()
    if restart is None:
        restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if device is None:
        device = _choose_device(options.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    timeout = timedelta(seconds=options.timeout_s)
    place = (
        {}
        if store is None
        else {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    )
    dist.init_process_group(backend or BACKENDS[device.type], timeout=timeout, store=store, **place)
    try:
        _groups["objects"] = dist.new_group(backend="gloo", timeout=timeout)
        yield TorchRanks(
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            restart=restart,
            framework=f"torch {torch.__version__}",
            device_type=device.type,
            backend=backend or ("nccl" if device.type == "cuda" else "gloo"),
            device=device,
        )
        # The first rank hosts the store, so it must not exit before the others have finished.
        dist.barrier()
    finally:
        if dist.is_initialized():  # a restart in process has aborted the group
            _ended.extend((dist.group.WORLD, *_groups.values()))
            dist.destroy_process_group()
        _groups.clear()


def whole(_options: Namespace, ranks: Ranks) -> Shard:
    """Return the shard of data-parallel training: each rank reads its own samples."""
    return Shard(index=ranks.rank, count=ranks.world_size)


@record
def run(
    options: Namespace,
    make_workload: Callable[[Namespace, TorchRanks], Workload],
    open_batches: Callable[[Namespace, Shard], Batches],
    shard_of: Callable[[Namespace, TorchRanks], Shard] = whole,
    join: Callable[[Namespace], AbstractContextManager[TorchRanks]] = connect,
) -> int:
    """Train and print the result; return 0 if all steps were done, else EXIT_TERMINATED."""
    stop = StopRequest()
    with join(options) as ranks:
        # The data are opened first: they may be missing on one node, and no rank waits for others meanwhile.
        batches = ranks.together(lambda: open_batches(options, shard_of(options, ranks)))
        result = Training(make_workload(options, ranks), batches, options, ranks, stop).run()
        return finish(result, is_first=ranks.is_first)


def _warn_of_stale_store() -> None:
    """Print a warning if torchrun keeps its store over restarts.

    PyTorch 2.13.0 keeps the store by default (pytorch issue 135712), and restarted ranks then read the
    addresses of dead ranks. The images set TORCH_DISABLE_SHARE_RDZV_TCP_STORE; the warning is for runs
    outside the images.
    """
    keeps_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if keeps_store and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and os.environ["RANK"] == "0":
        print(
            "warning: restarts may fail to connect; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun",
            file=sys.stderr,
            flush=True,
        )


def _choose_device(choice: str, *, local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if choice == "cpu" or (choice == "auto" and count == 0):
        return torch.device("cpu")
    if local_rank >= count:
        raise RankError(
            f"local rank {local_rank} has no GPU: PyTorch {torch.__version__} finds {count} CUDA devices; "
            "start at most one process per GPU, or use --device cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
