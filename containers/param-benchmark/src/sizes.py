"""Message sizes, percentiles and bandwidths of the benchmark. Pure; imports no PyTorch."""

import argparse
import math
from collections.abc import Iterator, Sequence

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 8, 64K, 256M or 1G."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if unit not in UNITS or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 8, 64K, 256M or 1G")
    return int(number) * UNITS[unit]


def message_sizes(begin: int, end: int, factor: int) -> Iterator[int]:
    size = begin
    while size <= end:
        yield size
        size *= factor


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def bus_factor(collective: str, ranks: int) -> float:
    """Return the ratio of bus to algorithm bandwidth, as nccl-tests defines it."""
    shares = {"all_reduce": 2 * (ranks - 1) / ranks, "broadcast": 1.0, "reduce": 1.0}
    return shares.get(collective, (ranks - 1) / ranks)
