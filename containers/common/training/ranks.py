"""The processes that train together: who this one is, on what device, and how long they are connected."""

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

# Checkpoints and agreement on small things go over the CPU on GPU machines too.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among its peers; `restart` counts how often torchrun has started them anew."""

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
    """Join the process group that torchrun describes, and leave it at the end."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise TrainingError(
            "this program is started by torchrun, "
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
        # The first rank holds the store: nobody leaves before all have finished.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _warn_of_stale_store() -> None:
    """A torchrun that keeps its store over a restart hands the new ranks the addresses of the dead ones.

    PyTorch 2.13.0 does so unless told otherwise (compare pytorch issue 135712). The images set the
    variable; this speaks up where the program runs elsewhere.
    """
    keeps_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if keeps_store and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and os.environ["RANK"] == "0":
        print(
            "warning: restarts may fail to connect; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun",
            file=sys.stderr,
            flush=True,
        )


def _choose_device(wish: str, *, local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if wish == "cpu" or (wish == "auto" and count == 0):
        return torch.device("cpu")
    if local_rank >= count:
        raise TrainingError(
            f"local rank {local_rank} finds {count} CUDA devices (PyTorch {torch.__version__}); "
            "start at most one process per GPU, or use --device cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
