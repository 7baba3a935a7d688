"""Position of a rank in picotron's grid of data, pipeline and tensor parallelism. Imports no PyTorch."""

from argparse import Namespace
from dataclasses import dataclass

from llama.options import chosen_config
from llama.sharding import tensor_parallel_shard
from training.errors import TrainingError
from training.ranks import Ranks
from training.sampling import Shard


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the grid; neighbouring ranks split a layer, groups of them are stages of a pipeline."""

    tensor: int
    pipeline: int
    data: int

    def stage(self, rank: int) -> int:
        return rank // self.tensor % self.pipeline

    def shard(self, rank: int) -> Shard:
        """Return the shard of the data, which is the same for all ranks of a pipeline."""
        return Shard(index=rank // (self.tensor * self.pipeline), count=self.data)

    def blocks(self, stage: int, layers: int) -> range:
        """Return the numbers of a stage's layers; a remainder goes to the first stages, one layer each."""
        each, more = divmod(layers, self.pipeline)
        first = stage * each + min(stage, more)
        return range(first, first + each + (stage < more))


def layout_of(options: Namespace, ranks: Ranks) -> Layout:
    """Return the grid that the options ask for; raise TrainingError if it does not fit model or ranks."""
    groups = tensor_parallel_shard(options, ranks).count
    stages, micro_batches, layers = (
        options.pipeline_parallel,
        options.micro_batches,
        chosen_config(options).layers,
    )
    data = options.data_parallel or groups // stages
    if data * stages != groups:
        raise TrainingError(
            f"--tensor-parallel {options.tensor_parallel} x --pipeline-parallel {stages} x --data-parallel "
            f"{data} is not the number of ranks, {ranks.world_size}"
        )
    if layers < stages:
        raise TrainingError(f"--pipeline-parallel {stages} is more than the {layers} layers of the model")
    if options.batch_size % micro_batches:
        raise TrainingError(
            f"--micro-batches {micro_batches} does not divide --batch-size {options.batch_size}"
        )
    if stages > 1 and micro_batches < stages:
        raise TrainingError(f"--micro-batches {micro_batches} is less than --pipeline-parallel {stages}")
    return Layout(tensor=options.tensor_parallel, pipeline=stages, data=data)


def shard_of(options: Namespace, ranks: Ranks) -> Shard:
    return layout_of(options, ranks).shard(ranks.rank)
