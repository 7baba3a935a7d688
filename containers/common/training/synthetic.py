"""Learnable synthetic data without state.

A batch is a pure function of (seed, step, shard), drawn from a counter-based generator. A resumed run gets
the same batches as an uninterrupted one.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.sampling import Shard

# Few distinct tokens in any vocabulary, so that the loss of every model size falls within a few dozen steps.
DISTINCT_TOKENS = 256
RULE = 2**64 - 1  # step number for data that is the same for all shards and steps


def generator(seed: int, *, step: int, shard: int) -> np.random.Generator:
    """Return the random generator of a step and shard, which are the high words of its counter."""
    counter = np.array([0, 0, shard, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed % 2**64, counter=counter))


@dataclass(kw_only=True)
class _Synthetic:
    batch_size: int
    seed: int
    shard: Shard
    step: int = field(default=0, init=False)

    def position(self) -> dict[str, int]:
        return {"step": self.step}

    def seek(self, positions: list[dict[str, int]]) -> None:
        self.step = positions[0]["step"]

    def _draws(self) -> np.random.Generator:
        self.step += 1
        return generator(self.seed, step=self.step, shard=self.shard.index)


@dataclass(kw_only=True)
class SyntheticPoints(_Synthetic):
    """Gaussian points, labelled by a fixed linear rule that a classifier can learn."""

    features: int
    classes: int

    def take(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rule = generator(self.seed, step=RULE, shard=0).standard_normal((self.features, self.classes))
        points = self._draws().standard_normal((self.batch_size, self.features))
        return points.astype(np.float32), np.argmax(points @ rule, axis=1)


@dataclass(kw_only=True)
class SyntheticTokens(_Synthetic):
    """Sequences in which 90% of the tokens are determined by the previous token, for a language model."""

    vocabulary: int
    length: int

    def take(self) -> NDArray[np.int64]:
        """Return sequences of length + 1: the inputs, shifted by a token, are the targets."""
        distinct = min(self.vocabulary, DISTINCT_TOKENS)
        successor = generator(self.seed, step=RULE, shard=0).permutation(distinct)
        draws = self._draws()
        shape = (self.batch_size, self.length + 1)
        tokens = draws.integers(distinct, size=shape)
        follows = draws.random(shape) < 0.9
        for i in range(1, self.length + 1):
            tokens[:, i] = np.where(follows[:, i], successor[tokens[:, i - 1]], tokens[:, i])
        return tokens
