"""A stage of the Llama-style model, whose layers are split over a tensor-parallel group."""

import zlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama.config import LlamaConfig
from llama.model import Block, Llama, rotary_table


class Copy(torch.autograd.Function):
    """Copy of the input for each rank of the group; the gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: "dist.ProcessGroup") -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class Sum(torch.autograd.Function):
    """Sum of the outputs of all ranks of the group; each rank gets the gradient of the sum."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, group: "dist.ProcessGroup") -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Stage(Llama):
    """Layers of a pipeline stage: the first stage has the embedding, the last one the output layer."""

    def __init__(self, config: LlamaConfig, blocks: range, group: "dist.ProcessGroup") -> None:
        super().__init__(config)
        # Names of parameters have the number of the layer in the whole model.
        self.blocks = nn.ModuleDict({str(number): self.blocks[number] for number in blocks})
        if blocks.start > 0:
            self.embedding = None
        if blocks.stop < config.layers:
            self.norm = self.head = None
        if group.size() > 1:
            for block in self.blocks.values():
                split(block, group)

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        rotary = rotary_table(x.shape[1], self.config, x.device)
        for block in self.blocks.values():
            x = block(x, rotary)
        return x if self.head is None else self.head(self.norm(x))


def is_split(name: str) -> bool:
    """Return True if each rank of a tensor-parallel group has its own part of the parameter."""
    return ".attention." in name or ".feed_forward." in name


def split_dim(name: str) -> int:
    """Return the dimension to split a weight along: inputs of output layers, outputs of other layers."""
    return 1 if name.endswith("output.weight") else 0


def split(block: Block, group: "dist.ProcessGroup") -> None:
    """Keep this rank's part of the weights of a layer, and exchange activations with the group."""
    for part in (block.attention, block.feed_forward):
        for name, linear in part.named_children():
            parts = linear.weight.chunk(group.size(), split_dim(f"{name}.weight"))
            linear.weight = nn.Parameter(parts[group.rank()])
        part.register_forward_pre_hook(lambda _, given: (Copy.apply(given[0], group), *given[1:]))
        part.register_forward_hook(lambda _module, _given, x: Sum.apply(x, group))


def make_stage(
    config: LlamaConfig, blocks: range, group: "dist.ProcessGroup", *, device: torch.device, seed: int
) -> Stage:
    """Return an initialized stage; the model's initial weights do not depend on the parallelism."""
    with torch.device("meta"):
        stage = Stage(config, blocks, group)
    stage.to_empty(device=device)
    names = {id(parameter): name for name, parameter in stage.named_parameters()}

    def fill_normal(weight: Tensor, std: float) -> None:
        name = names[id(weight)]
        draws = torch.Generator(device=device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        dim, parts = split_dim(name), group.size() if is_split(name) else 1
        shape = [size * parts if number == dim else size for number, size in enumerate(weight.shape)]
        whole = torch.empty(shape, device=device).normal_(0.0, std, generator=draws)
        weight.copy_(whole.chunk(parts, dim)[group.rank() % parts])

    stage.init_weights(fill_normal)
    return stage


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
