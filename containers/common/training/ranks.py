"""Process group of the training: rank and device of this process, and its connection to the others."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from training.errors import TrainingError

# GPU machines also need gloo, for checkpoints and for small objects on the CPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Rank, world size and device of this process; `restart` counts the restarts by torchrun."""

    rank: int
    world_size: int
    restart: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def backend(self) -> str:
        return "nccl" if self.device.type == "cuda" else "gloo"


@contextmanager
def connect(options: Namespace) -> Iterator[Ranks]:
    """Join the process group for the block, with the parameters that torchrun sets in the environment."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise TrainingError(
            "this program must be started by torchrun, "
            "for example: torchrun --standalone --nproc-per-node 2 train.py --smoke"
        )
    _warn_of_stale_store()
    device = _choose_device(options.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(BACKENDS[device.type], timeout=timedelta(seconds=options.timeout_s))
    try:
        yield Ranks(
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            restart=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            device=device,
        )
        # The first rank hosts the store, so it must not exit before the others have finished.
        dist.barrier()
    finally:
        dist.destroy_process_group()


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
        raise TrainingError(
            f"local rank {local_rank} has no GPU: PyTorch {torch.__version__} finds {count} CUDA devices; "
            "start at most one process per GPU, or use --device cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
