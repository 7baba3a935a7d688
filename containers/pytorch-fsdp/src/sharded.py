"""Llama trained with FSDP2: created on the meta device, sharded, then initialised shard by shard.

No rank ever holds the whole model; every rank writes and reads its own part of a checkpoint.
"""

import math
from argparse import Namespace
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from llama import Llama
from llama_config import CONFIGS
from training.data import TokenChains
from training.errors import TrainingError
from training.ranks import Ranks


class ShardedLlama:
    """Workload with parameters, gradients and optimizer state sharded over the ranks."""

    program = "pytorch-fsdp"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: Ranks) -> None:
        config = CONFIGS[options.model]
        length = options.sequence_length or config.sequence
        self.identity: dict[str, str | int] = {
            "program": self.program,
            "model": options.model,
            "seed": options.seed,
            **{name: str(value) for name, value in asdict(config).items()},
        }
        self.parameters = config.parameters
        self.units_per_step = options.batch_size * length
        self._options = options
        self._ranks = ranks
        self._chains = TokenChains(vocabulary=config.vocabulary, length=length, seed=options.seed)
        # Saves use their own process group, so that asynchronous saves and the training do not mix messages.
        self._saving_group = dist.new_group(backend="gloo")
        self._model = shard(options, ranks)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.1
        )

    def train_step(self, step: int) -> Tensor:
        batch = self._chains.batch(self._options.batch_size, step=step, rank=self._ranks.rank)
        tokens = torch.from_numpy(batch).to(self._ranks.device)
        logits = self._model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), max_norm=1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(
                step, steps=self._options.steps, warmup=self._options.warmup, peak=self._options.learning_rate
            )
        self._optimizer.step()
        return loss

    def save(self, folder: Path) -> "Future[object]":
        model, optimizer = get_state_dict(self._model, self._optimizer)
        state = {"model": model, "optimizer": optimizer}
        if self._options.async_checkpoint:
            # async_save returns as soon as the state is copied to host memory.
            return cast(
                "Future[object]",
                dcp.async_save(state, checkpoint_id=folder, process_group=self._saving_group),
            )
        dcp.save(state, checkpoint_id=folder, process_group=self._saving_group)
        written: Future[object] = Future()
        written.set_result(None)
        return written

    def load(self, folder: Path) -> None:
        """Load the parts that this rank's shards need; the save may have used another number of ranks."""
        model, optimizer = get_state_dict(self._model, self._optimizer)
        dcp.load(
            {"model": model, "optimizer": optimizer}, checkpoint_id=folder, process_group=self._saving_group
        )
        set_state_dict(self._model, self._optimizer, model_state_dict=model, optim_state_dict=optimizer)


def shard(options: Namespace, ranks: Ranks) -> Llama:
    """Return the sharded and initialized model; each rank only ever holds its shards."""
    with torch.device("meta"):
        model = Llama(CONFIGS[options.model], recompute=options.activation_checkpointing)
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


def make_mesh(ranks: Ranks, *, shard_ranks: int | None) -> DeviceMesh:
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
    """Return the policy for "bf16", "fp32" or "auto" (bfloat16 if the GPU supports it, else float32).

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


def learning_rate_at(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to a tenth of the peak."""
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))
