"""Fully sharded training of the Llama-style model with FSDP2 (fully_shard)."""

from argparse import Namespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from llama.model import Llama
from llama.options import chosen_config, chosen_length, identity
from llama.steps import make_optimizer, next_token_loss, update
from training.errors import TrainingError
from training.torch_ranks import TorchRanks
from training.torch_saving import FullySharded, Sharded


class ShardedLlama(FullySharded):
    """Workload with parameters, gradients and optimizer state sharded over the ranks."""

    program = "pytorch-fsdp"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        self.identity = identity(options, self.program)
        self.parameters = chosen_config(options).parameters
        self.units_per_step = options.batch_size * chosen_length(options) * ranks.world_size
        self._options, self._ranks = options, ranks
        self._storage = Sharded(asynchronous=options.async_checkpoint)
        self._model = shard(options, ranks)
        self._optimizer = make_optimizer(self._model, options)

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        loss = next_token_loss(self._model, torch.from_numpy(batch).to(self._ranks.device))
        update(self._model, self._optimizer, loss, step, self._options)
        return loss


def shard(options: Namespace, ranks: TorchRanks) -> Llama:
    """Return the sharded and initialized model; each rank only ever holds its shards."""
    with torch.device("meta"):
        model = Llama(chosen_config(options), recompute=options.activation_checkpointing)
    mesh = make_mesh(ranks, shard_ranks=options.shard_ranks)
    policy = precision_policy(options.precision, ranks.device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to_empty(device=ranks.device)
    # Ranks with the same shard in different replicas must draw the same numbers.
    draws = torch.Generator(device=ranks.device).manual_seed(
        options.seed * ranks.world_size + mesh.get_local_rank(mesh.ndim - 1)
    )

    def fill_normal(weight: Tensor, std: float) -> None:
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        local.normal_(0.0, std, generator=draws)

    model.init_weights(fill_normal)
    return model


def make_mesh(ranks: TorchRanks, *, shard_ranks: int | None) -> DeviceMesh:
    """Shard over all ranks, or within groups of `shard_ranks` with replicas across the groups."""
    kind = ranks.device.type
    if shard_ranks is None:
        return init_device_mesh(kind, (ranks.world_size,), mesh_dim_names=("shard",))
    if ranks.world_size % shard_ranks:
        raise TrainingError(f"--shard-ranks {shard_ranks} does not divide the {ranks.world_size} ranks")
    return init_device_mesh(
        kind, (ranks.world_size // shard_ranks, shard_ranks), mesh_dim_names=("replicate", "shard")
    )


def precision_policy(precision: str, device: torch.device) -> MixedPrecisionPolicy:
    """Return the mixed-precision policy: "auto" means "bf16" if the GPU supports it, else "fp32".

    Gradients are always reduced in float32.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if fast else "fp32"
    # Inputs are not cast: tokens are integers and the rotary table must stay in float32.
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
