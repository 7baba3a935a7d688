"""Ranks of SageMaker's model-parallel library, which creates the process groups for sharding."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import torch.sagemaker as library

from training import torch_ranks
from training.torch_ranks import TorchRanks


@contextmanager
def connect(options: Namespace) -> Iterator[TorchRanks]:
    with torch_ranks.connect(options) as ranks:
        library.init({"hybrid_shard_degree": options.shard_degree})
        yield ranks
