"""torchtitan's Llama 3 and its parallelisation, trained in the loop of the images.

torchtitan's own trainer runs on accelerators only, so its modules are used without it.
"""

from argparse import Namespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torchtitan.config import JobConfig
from torchtitan.distributed import ParallelDims, parallel_dims
from torchtitan.distributed.utils import clip_grad_norm_
from torchtitan.models.llama3 import Transformer, TransformerModelArgs, parallelize_llama

from llama.config import LlamaConfig
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from llama.sharding import tensor_parallel_shard
from llama.steps import make_optimizer, next_token_loss
from training.errors import TrainingError
from training.ranks import Ranks
from training.sampling import Shard
from training.torch_ranks import TorchRanks
from training.torch_saving import FullySharded, Sharded


class TitanLlama(FullySharded):
    """Workload with torchtitan's model, FSDP, tensor parallelism and activation checkpointing."""

    program = "torchtitan"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        self.identity = identity(options, self.program)
        self.units_per_step = options.batch_size * chosen_length(options) * shard_of(options, ranks).count
        self._options, self._ranks = options, ranks
        self._storage = Sharded(asynchronous=options.async_checkpoint)
        self._model = make_model(options, ranks)
        self.parameters = sum(parameter.numel() for parameter in self._model.parameters())
        self._optimizer = make_optimizer(self._model, options)

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        tokens = torch.from_numpy(batch).to(self._ranks.device)
        # torchtitan leaves bfloat16 to FSDP, which a single rank does not use.
        alone = self._ranks.world_size == 1
        with torch.autocast("cuda", torch.bfloat16, enabled=tokens.is_cuda and alone):
            loss = next_token_loss(self._model, tokens)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(list(self._model.parameters()), max_norm=1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._options)
        self._optimizer.step()
        return loss


def shard_of(options: Namespace, ranks: Ranks) -> Shard:
    """Return the shard of this rank; raise TrainingError if torchtitan cannot split the sequences."""
    shard = tensor_parallel_shard(options, ranks)
    length, unit = chosen_length(options), 2 * options.tensor_parallel
    if length % unit:
        raise TrainingError(f"--sequence-length {length} is not a multiple of {unit}, 2 x --tensor-parallel")
    return shard


def make_model(options: Namespace, ranks: TorchRanks) -> nn.Module:
    """Return the parallelised and initialized model."""
    # torchtitan takes the machine's accelerator, or cuda if it has none.
    parallel_dims.device_type = ranks.device.type
    on_gpu = ranks.device.type == "cuda"
    job = JobConfig()
    job.training.seq_len = chosen_length(options)
    job.training.mixed_precision_param = "bfloat16" if on_gpu else "float32"
    job.activation_checkpoint.mode = options.activation_checkpoint
    job.parallelism.disable_loss_parallel = True
    sharded = shard_of(options, ranks).count
    dims = ParallelDims(
        dp_replicate=1,
        dp_shard=sharded,
        tp=options.tensor_parallel,
        cp=1,
        pp=1,
        ep=1,
        etp=1,
        world_size=ranks.world_size,
    )
    with torch.device("meta"):
        model = Transformer(titan_sizes(chosen_config(options), length=job.training.seq_len))
    parallelize_llama(model, dims, job)
    # torchtitan's FSDP adds up the gradients of the ranks and leaves their mean to its trainer.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(sharded)
    model.to_empty(device=ranks.device)
    # On CPUs each rank draws its parts of the weights on its own; equal seeds would make the parts equal.
    torch.manual_seed(options.seed if on_gpu else options.seed + ranks.rank)
    with torch.no_grad():
        model.init_weights(buffer_device=ranks.device)
    return model


def titan_sizes(config: LlamaConfig, *, length: int) -> TransformerModelArgs:
    """Return torchtitan's arguments for the same sizes; its model has no tied embeddings."""
    # torchtitan derives the hidden size from dim: 4 * dim, times 2 / 3, times the multiplier, rounded up.
    derived = int(2 * 4 * config.dim / 3)
    return TransformerModelArgs(
        dim=config.dim,
        n_layers=config.layers,
        n_heads=config.heads,
        n_kv_heads=config.kv_heads,
        vocab_size=config.vocabulary,
        multiple_of=config.feed_forward,
        ffn_dim_multiplier=config.feed_forward / derived,
        norm_eps=config.norm_epsilon,
        rope_theta=config.rope_theta,
        max_seq_len=length,
    )
