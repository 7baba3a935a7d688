"""Order of samples: which samples each rank reads in each step. The only state is a count of samples.

Samples are numbered over all ranks and epochs. Each epoch has its own order, which is computed, not stored.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd constant of Fibonacci hashing


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Part of the data that a rank reads; ranks that work on the same samples have the same index."""

    index: int = 0
    count: int = 1


def shuffled(numbers: NDArray[np.int64], total: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Map numbers below `total` to a permutation of them that depends on the seed and the epoch.

    A Feistel network permutes the numbers below the next power of four. It is applied again to results
    that are not below `total`.
    """
    half = np.uint64(max(1, ((total - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence([seed % 2**64, epoch]).generate_state(ROUNDS, np.uint64)
    found = numbers.astype(np.uint64)
    outside = np.ones(found.shape, dtype=bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys:
            mixed = (right ^ key) * SPREAD
            left, right = right, (left ^ (mixed >> np.uint64(32))) & mask
        found[outside] = left << half | right
        outside = found >= np.uint64(total)
    return found.astype(np.int64)


@dataclass(kw_only=True)
class Cursor:
    """Number of samples that all ranks together have taken."""

    total: int  # samples of an epoch
    seed: int
    shard: Shard
    taken: int = 0

    def take(self, size: int) -> NDArray[np.int64]:
        """Return the next `size` samples of this shard and advance by the samples of all shards."""
        numbers = self.taken + self.shard.index * size + np.arange(size, dtype=np.int64)
        self.taken += size * self.shard.count
        epochs = numbers // self.total
        samples = numbers % self.total
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = shuffled(samples[chosen], self.total, seed=self.seed, epoch=int(epoch))
        return samples
