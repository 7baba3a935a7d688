"""Sharded training of the Llama-style model with FullyShardedDataParallel, for SageMaker's libraries."""

from argparse import Namespace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from llama.model import Block, Llama
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from llama.steps import make_optimizer, next_token_loss
from training.torch_ranks import TorchRanks
from training.torch_saving import FullySharded, Sharded


class FullyShardedLlama(FullySharded):
    """Workload with parameters, gradients and optimizer state sharded over all ranks, or within groups."""

    unit = "tokens"

    def __init__(
        self, options: Namespace, ranks: TorchRanks, *, program: str, in_groups: bool = False
    ) -> None:
        self.program = program
        self.identity = identity(options, program)
        self.parameters = chosen_config(options).parameters
        self.units_per_step = options.batch_size * chosen_length(options) * ranks.world_size
        self._options, self._ranks = options, ranks
        self._storage = Sharded(asynchronous=False)
        self._model = shard(options, ranks, in_groups=in_groups)
        self._optimizer = make_optimizer(self._model, options)

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        loss = next_token_loss(self._model, torch.from_numpy(batch).to(self._ranks.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._model.clip_grad_norm_(1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._options)
        self._optimizer.step()
        return loss


def shard(options: Namespace, ranks: TorchRanks, *, in_groups: bool) -> FullyShardedDataParallel:
    """Return the sharded model; every rank draws the same weights."""
    model = Llama(chosen_config(options), recompute=options.activation_checkpointing)
    draws = torch.Generator().manual_seed(options.seed)
    model.init_weights(lambda weight, std: weight.normal_(0.0, std, generator=draws))
    on_gpu = ranks.device.type == "cuda"
    strategy = ShardingStrategy.HYBRID_SHARD if in_groups else ShardingStrategy.FULL_SHARD
    make = partial(FullyShardedDataParallel, sharding_strategy=strategy, use_orig_params=True)
    return make(
        model,
        auto_wrap_policy=ModuleWrapPolicy({Block}),
        mixed_precision=MixedPrecision(param_dtype=torch.bfloat16) if on_gpu else None,
        device_id=ranks.device,
        limit_all_gathers=True,
    )
