"""Llama-style decoder: RMSNorm, rotary positions, grouped-query attention and SwiGLU.

All parameters belong to nn.Linear, nn.Embedding or nn.RMSNorm and there are no buffers, so `init_weights` is
enough to initialize a model from the meta device. Knows nothing of ranks and sharding.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llama.config import LlamaConfig

INIT_STD = 0.02


def rotary_table(length: int, config: LlamaConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every position and frequency, always in float32."""
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(length, device=device), config.rope_theta**-exponents)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair of numbers of (batch, heads, length, head_dim) by the angle of its position."""
    cos, sin = rotary
    even, odd = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).type_as(heads)


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.queries = nn.Linear(config.dim, config.heads * config.head_dim, bias=False)
        self.keys = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)
        self.values = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)
        self.output = nn.Linear(config.heads * config.head_dim, config.dim, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        queries, keys, values = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.queries, self.keys, self.values)
        )
        mixed = functional.scaled_dot_product_attention(
            rotate(queries, rotary), rotate(keys, rotary), values, is_causal=True, enable_gqa=True
        )
        return self.output(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.feed_forward, bias=False)
        self.up = nn.Linear(config.dim, config.feed_forward, bias=False)
        self.output = nn.Linear(config.feed_forward, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Transformer layer; with `recompute` the backward pass computes the activations again."""

    def __init__(self, config: LlamaConfig, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.dim, eps=config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        # Recomputation is inside the block, so that FSDP gathers the block's weights only once for the
        # recomputation and the backward pass.
        if self.recompute:
            return checkpoint(self._forward, x, rotary, use_reentrant=False)
        return self._forward(x, rotary)

    def _forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig, *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.dim)
        self.blocks = nn.ModuleList(Block(config, recompute=recompute) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_epsilon)
        # Tied embeddings use the same parameter twice, so sharding need not keep two parameters in sync.
        self.head = None if config.tied_embeddings else nn.Linear(config.dim, config.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        rotary = rotary_table(tokens.shape[1], self.config, tokens.device)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, rotary)
        x = self.norm(x)
        return functional.linear(x, self.embedding.weight) if self.head is None else self.head(x)

    @torch.no_grad()
    def init_weights(self, fill_normal: Callable[[Tensor, float], None]) -> None:
        """Initialize all weights; `fill_normal` draws the values of this rank's part of a tensor."""
        for name, module in self.named_modules():
            if isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
            elif isinstance(module, nn.Linear | nn.Embedding):
                # Weights of layers that add to the residual stream get a standard deviation that is smaller,
                # depending on the number of layers.
                narrower = math.sqrt(2 * self.config.layers) if name.endswith(".output") else 1.0
                fill_normal(module.weight, INIT_STD / narrower)
