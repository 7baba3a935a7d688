"""Synthetic data that can be learned and needs no state.

A batch is a pure function of (seed, step, rank) through a counter-based generator, so a resumed run sees
exactly the batches an undisturbed one would have seen, and no sampler has to be saved.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Few distinct tokens, whatever the vocabulary: the loss of every model size falls within some dozen steps.
DISTINCT_TOKENS = 256
RULE = 2**64 - 1  # the counter of what is the same for all ranks and steps


def generator(seed: int, *, step: int, rank: int) -> np.random.Generator:
    """Random numbers of one step and rank; the low words of the counter are left to the draws."""
    counter = np.array([0, 0, rank, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed % 2**64, counter=counter))


@dataclass(frozen=True, kw_only=True)
class LabelledPoints:
    """Gaussian points, labelled by a fixed linear rule: what a classifier can learn."""

    features: int
    classes: int
    seed: int

    def batch(self, size: int, *, step: int, rank: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rule = generator(self.seed, step=RULE, rank=0).standard_normal((self.features, self.classes))
        points = generator(self.seed, step=step, rank=rank).standard_normal((size, self.features))
        return points.astype(np.float32), np.argmax(points @ rule, axis=1)


@dataclass(frozen=True, kw_only=True)
class TokenChains:
    """Sequences where nine tokens of ten follow from the one before: what a language model can learn."""

    vocabulary: int
    length: int
    seed: int

    def batch(self, size: int, *, step: int, rank: int) -> NDArray[np.int64]:
        """`size` sequences of length + 1: inputs are all but the last token, targets all but the first."""
        distinct = min(self.vocabulary, DISTINCT_TOKENS)
        successor = generator(self.seed, step=RULE, rank=0).permutation(distinct)
        draws = generator(self.seed, step=step, rank=rank)
        tokens = draws.integers(distinct, size=(size, self.length + 1))
        follows = draws.random((size, self.length + 1)) < 0.9
        for place in range(1, self.length + 1):
            tokens[:, place] = np.where(follows[:, place], successor[tokens[:, place - 1]], tokens[:, place])
        return tokens
