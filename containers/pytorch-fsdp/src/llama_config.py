"""Sizes of the Llama-style models, by name. Does not import PyTorch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Shape of a model; heads have the dimension dim / heads and share `kv_heads` keys and values."""

    vocabulary: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    sequence: int  # default number of tokens per example
    tied_embeddings: bool = False
    rope_theta: float = 500_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def parameters(self) -> int:
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.dim * self.feed_forward + 2 * self.dim
        embeddings = self.vocabulary * self.dim * (1 if self.tied_embeddings else 2)
        return embeddings + self.layers * block + self.dim


CONFIGS = {
    "toy": LlamaConfig(vocabulary=256, dim=64, layers=2, heads=4, kv_heads=2, feed_forward=192, sequence=64),
    "125m": LlamaConfig(
        vocabulary=32_000, dim=768, layers=12, heads=12, kv_heads=4, feed_forward=2_048, sequence=1_024
    ),
    "1b": LlamaConfig(
        vocabulary=128_256,
        dim=2_048,
        layers=16,
        heads=32,
        kv_heads=8,
        feed_forward=8_192,
        sequence=4_096,
        tied_embeddings=True,
    ),
    "3b": LlamaConfig(
        vocabulary=128_256,
        dim=3_072,
        layers=28,
        heads=24,
        kv_heads=8,
        feed_forward=8_192,
        sequence=4_096,
        tied_embeddings=True,
    ),
    "8b": LlamaConfig(
        vocabulary=128_256,
        dim=4_096,
        layers=32,
        heads=32,
        kv_heads=8,
        feed_forward=14_336,
        sequence=8_192,
    ),
    "13b": LlamaConfig(
        vocabulary=32_000,
        dim=5_120,
        layers=40,
        heads=40,
        kv_heads=40,
        feed_forward=13_824,
        sequence=4_096,
        rope_theta=10_000.0,
    ),
    "70b": LlamaConfig(
        vocabulary=128_256,
        dim=8_192,
        layers=80,
        heads=64,
        kv_heads=8,
        feed_forward=28_672,
        sequence=8_192,
    ),
}
