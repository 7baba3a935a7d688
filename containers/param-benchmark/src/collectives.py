"""A collective with a message size, called repeatedly on all ranks and measured."""

from argparse import Namespace
from collections.abc import Callable
from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor

from sizes import bus_factor, percentile
from training.errors import TrainingError
from training.torch_ranks import TorchRanks


def measure(name: str, size: int, options: Namespace, ranks: TorchRanks) -> dict[str, object]:
    """Return the latencies in microseconds of the slowest rank, and the bandwidths at the median."""
    dtype: torch.dtype = getattr(torch, options.data_types)
    # Every rank sends or receives equal parts of the message.
    elements = max(ranks.world_size, size // dtype.itemsize // ranks.world_size * ranks.world_size)
    call, check = prepare(name, elements, dtype, ranks)
    for _ in range(options.w):
        timed(call, ranks)
    if options.c and not all(ranks.gather(check())):
        raise TrainingError(f"{name} with {size} bytes gave a wrong result")
    times = torch.tensor([timed(call, ranks) for _ in range(options.n)], dtype=torch.float64)
    times = times.to(ranks.device)
    dist.all_reduce(times, dist.ReduceOp.MAX)
    microseconds = (times * 1e6).tolist()
    moved = elements * dtype.itemsize
    rate = moved / percentile(microseconds, 50) / 1e3  # bytes per microsecond are MB/s
    return {
        "collective": name,
        "size_bytes": moved,
        "elements": elements,
        **{f"p{percent}_us": round(percentile(microseconds, percent), 1) for percent in (50, 75, 95)},
        "min_us": round(min(microseconds), 1),
        "max_us": round(max(microseconds), 1),
        "algbw_gb_s": round(rate, 3),
        "busbw_gb_s": round(rate * bus_factor(name, ranks.world_size), 3),
    }


def timed(call: Callable[[], None], ranks: TorchRanks) -> float:
    """Return the seconds of a call on this rank, from a common start."""
    dist.barrier()
    began = perf_counter()
    call()
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    return perf_counter() - began


def prepare(
    name: str, elements: int, dtype: torch.dtype, ranks: TorchRanks
) -> tuple[Callable[[], None], Callable[[], bool]]:
    """Return a function that calls the collective, and one that calls it and checks its result."""
    count, part = ranks.world_size, elements // ranks.world_size
    source = torch.ones(elements, dtype=dtype, device=ranks.device)
    target = torch.zeros(elements, dtype=dtype, device=ranks.device)
    piece = torch.ones(part, dtype=dtype, device=ranks.device)

    def reset() -> None:
        source.fill_(1)
        piece.fill_(1)
        target.zero_()

    calls: dict[str, tuple[Callable[[], object], Callable[[], Tensor], int]] = {
        "all_reduce": (lambda: dist.all_reduce(source), lambda: source, count),
        "reduce": (lambda: dist.reduce(source, 0), lambda: source if ranks.is_first else piece, count),
        "broadcast": (lambda: dist.broadcast(source, 0), lambda: source, 1),
        "all_gather": (lambda: dist.all_gather_single(target, piece), lambda: target, 1),
        "reduce_scatter": (lambda: dist.reduce_scatter_single(piece, source), lambda: piece, count),
        "all_to_all": (lambda: dist.all_to_all_single(target, source), lambda: target, 1),
    }
    call, result, expected = calls[name]

    def is_right() -> bool:
        reset()
        call()
        wanted = 1 if name == "reduce" and not ranks.is_first else expected
        return bool((result() == wanted).all())

    return lambda: call() and None, is_right
