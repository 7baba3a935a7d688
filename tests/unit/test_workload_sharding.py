"""Data shards of training programs with tensor parallelism, tested without PyTorch."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))

from llama.sharding import tensor_parallel_shard
from training.errors import TrainingError
from training.ranks import Alone


def options_for(degree: int) -> Namespace:
    return Namespace(tensor_parallel=degree, config=None, model="toy")


def test_all_ranks_of_a_tensor_parallel_group_get_the_same_data_shard():
    shards = [
        tensor_parallel_shard(options_for(2), Alone(rank=rank, world_size=4, restart=0)) for rank in range(4)
    ]
    assert [(shard.index, shard.count) for shard in shards] == [(0, 2), (0, 2), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("degree", "complaint"),
    [
        (3, "--tensor-parallel 3 does not divide the 4 ranks"),
        (4, "--tensor-parallel 4 does not divide kv_heads 2"),
    ],
)
def test_tensor_parallel_degree_that_does_not_fit_is_refused(degree, complaint):
    with pytest.raises(TrainingError, match=complaint):
        tensor_parallel_shard(options_for(degree), Alone(rank=0, world_size=4, restart=0))
