"""GPT model of Megatron-Core with tensor and data parallelism."""

from argparse import Namespace
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import (
    model_parallel_cuda_manual_seed,
    param_is_not_tensor_parallel_duplicate,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from numpy.typing import NDArray
from torch import Tensor, nn

import on_cpu
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from llama.sharding import tensor_parallel_shard
from llama.steps import make_optimizer
from training.torch_ranks import TorchRanks
from training.torch_saving import read_whole, write_whole

STATE = "rank-{rank:05d}.pt"
MAX_NORM = 1.0


class MegatronGpt:
    """Workload with layers that are split over neighbouring ranks; each rank saves its part."""

    program = "megatron-lm"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        self._options, self._ranks = options, ranks
        shard = tensor_parallel_shard(options, ranks)
        # A rank loads the part that it saved, so a checkpoint fits only the same layout of ranks.
        layout = {"ranks": ranks.world_size, "tensor_parallel": options.tensor_parallel}
        self.identity = {**identity(options, self.program), **layout}
        self.units_per_step = options.batch_size * chosen_length(options) * shard.count
        parallel_state.initialize_model_parallel(options.tensor_parallel)
        if ranks.device.type == "cpu":
            on_cpu.enable()
        else:
            model_parallel_cuda_manual_seed(options.seed)
        torch.manual_seed(options.seed)
        config = transformer_config(options, ranks.device)
        model = make_model(options, config).to(ranks.device)
        self._replica = DistributedDataParallel(config, DistributedDataParallelConfig(), model)
        self._replica.broadcast_params()
        self._optimizer = make_optimizer(self._replica, options)
        self.parameters = chosen_config(options).parameters

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        tokens = torch.from_numpy(batch).to(self._ranks.device)
        positions = torch.arange(tokens.shape[1] - 1, device=tokens.device).expand(len(tokens), -1)
        # Weights stay in float32; matrix products run in bfloat16 on GPUs.
        with torch.autocast("cuda", torch.bfloat16, enabled=tokens.is_cuda):
            losses = self._replica(
                tokens[:, :-1].contiguous(), positions, None, labels=tokens[:, 1:].contiguous()
            )
        loss = losses.float().mean()
        # Megatron-Core adds new gradients to its buffer; the gradients of the previous step must be cleared.
        self._optimizer.zero_grad(set_to_none=True)
        self._replica.zero_grad_buffer()
        loss.backward()
        finalize_model_grads([self._replica])
        clip_gradients(self._replica)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._options)
        self._optimizer.step()
        return loss

    def save(self, folder: Path) -> "Future[object]":
        state = {"model": tensors_of(self._replica.module), "optimizer": self._optimizer.state_dict()}
        return write_whole(state, folder / STATE.format(rank=self._ranks.rank))

    def load(self, folder: Path) -> None:
        state = read_whole(folder / STATE.format(rank=self._ranks.rank), self._ranks.device)
        self._replica.module.load_state_dict(state["model"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a state, without the empty extra states of Megatron-Core's modules."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def transformer_config(options: Namespace, device: torch.device) -> TransformerConfig:
    config = chosen_config(options)
    on_gpu = device.type == "cuda"
    return TransformerConfig(
        num_layers=config.layers,
        hidden_size=config.dim,
        ffn_hidden_size=config.feed_forward,
        num_attention_heads=config.heads,
        num_query_groups=config.kv_heads,
        tensor_model_parallel_size=options.tensor_parallel,
        use_cpu_initialization=not on_gpu,
        params_dtype=torch.float32,
        normalization="RMSNorm",
        layernorm_epsilon=config.norm_epsilon,
        gated_linear_unit=True,
        activation_func=nn.functional.silu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        persist_layer_norm=False,
    )


def make_model(options: Namespace, config: TransformerConfig) -> GPTModel:
    sizes = chosen_config(options)
    return GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=sizes.vocabulary,
        max_sequence_length=chosen_length(options),
        share_embeddings_and_output_weights=sizes.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=int(sizes.rope_theta),
    )


def clip_gradients(model: nn.Module) -> None:
    """Scale the gradients so that their norm is at most MAX_NORM, and hand them to the optimizer."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = parameter.main_grad.to(parameter.dtype)
    # Parameters that all ranks of a tensor-parallel group hold are counted once.
    counted = [p.grad.float().pow(2).sum() for p in parameters if param_is_not_tensor_parallel_duplicate(p)]
    total = torch.stack(counted).sum()
    dist.all_reduce(total, group=parallel_state.get_tensor_model_parallel_group())
    scale = (MAX_NORM / (total.sqrt() + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        parameter.grad.mul_(scale)
