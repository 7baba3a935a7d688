"""A Llama-style decoder: RMSNorm, rotary positions, grouped-query attention and SwiGLU.

Every parameter belongs to an nn.Linear, nn.Embedding or nn.RMSNorm and there are no buffers, so a model made
on the meta device needs `init_weights` and nothing else. Knows nothing of ranks and sharding.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llama_config import LlamaConfig

INIT_STD = 0.02


def rotary_table(length: int, config: LlamaConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and frequency, in float32 whatever the weights are."""
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(length, device=device), config.rope_theta**-exponents)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of numbers of (batch, heads, length, head_dim) by the angle of its position."""
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
    """One layer; with `recompute` its activations are not kept but computed again in the backward pass."""

    def __init__(self, config: LlamaConfig, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.dim, eps=config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        # Inside the block, so that FSDP's hooks gather its weights once for recomputation and backward.
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
        # Tied embeddings are one parameter used twice, not two names that sharding has to keep together.
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
        """Set every weight; `fill_normal` draws, as it has to know what part of a tensor this rank holds."""
        for name, module in self.named_modules():
            if isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
            elif isinstance(module, nn.Linear | nn.Embedding):
                # What is added to the residual stream is drawn narrower the more layers add to it.
                narrower = math.sqrt(2 * self.config.layers) if name.endswith(".output") else 1.0
                fill_normal(module.weight, INIT_STD / narrower)
