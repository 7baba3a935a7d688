"""Shards of the data for programs with tensor parallelism. Imports no PyTorch."""

from argparse import Namespace

from llama.options import chosen_config
from training.errors import TrainingError
from training.ranks import Ranks
from training.sampling import Shard


def tensor_parallel_shard(options: Namespace, ranks: Ranks) -> Shard:
    """Return the shard of this rank: neighbours in a tensor-parallel group read the same samples.

    Raises TrainingError if --tensor-parallel divides neither the ranks nor the layers of the model.
    """
    degree: int = options.tensor_parallel
    if ranks.world_size % degree:
        raise TrainingError(f"--tensor-parallel {degree} does not divide the {ranks.world_size} ranks")
    config = chosen_config(options)
    for name in ("kv_heads", "vocabulary", "feed_forward"):
        if getattr(config, name) % degree:
            raise TrainingError(f"--tensor-parallel {degree} does not divide {name} {getattr(config, name)}")
    return Shard(index=ranks.rank // degree, count=ranks.world_size // degree)
