"""Learnable synthetic data without state.

A batch is a pure function of (seed, step, rank), drawn from a counter-based generator. A resumed run gets the
same batches as an uninterrupted one, and checkpoints need no sampler state.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Few distinct tokens in any vocabulary, so that the loss of every model size falls within a few dozen steps.
DISTINCT_TOKENS = 256
RULE = 2**64 - 1  # step number for data that is the same for all ranks and steps


def generator(seed: int, *, step: int, rank: int) -> np.random.Generator:
    """Return the random generator of a step and rank, which use the high words of the counter."""
    counter = np.array([0, 0, rank, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed % 2**64, counter=counter))


@dataclass(frozen=True, kw_only=True)
class LabelledPoints:
    """Gaussian points, labelled by a fixed linear rule that a classifier can learn."""

    features: int
    classes: int
    seed: int

    def batch(self, size: int, *, step: int, rank: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rule = generator(self.seed, step=RULE, rank=0).standard_normal((self.features, self.classes))
        points = generator(self.seed, step=step, rank=rank).standard_normal((size, self.features))
        return points.astype(np.float32), np.argmax(points @ rule, axis=1)


@dataclass(frozen=True, kw_only=True)
class TokenChains:
    """Sequences in which 90% of the tokens are determined by the previous token, for a language model."""

    vocabulary: int
    length: int
    seed: int

    def batch(self, size: int, *, step: int, rank: int) -> NDArray[np.int64]:
        """Return `size` sequences of length + 1: the inputs, shifted by a token, are the targets."""
        distinct = min(self.vocabulary, DISTINCT_TOKENS)
        successor = generator(self.seed, step=RULE, rank=0).permutation(distinct)
        draws = generator(self.seed, step=step, rank=rank)
        tokens = draws.integers(distinct, size=(size, self.length + 1))
        follows = draws.random((size, self.length + 1)) < 0.9
        for i in range(1, self.length + 1):
            tokens[:, i] = np.where(follows[:, i], successor[tokens[:, i - 1]], tokens[:, i])
        return tokens
