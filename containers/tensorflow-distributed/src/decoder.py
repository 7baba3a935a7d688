"""Llama-style decoder of TensorFlow: RMSNorm, rotary positions, grouped-query attention and SwiGLU."""

import math
from collections.abc import Mapping

import tensorflow as tf

from llama.config import LlamaConfig

INIT_STD = 0.02
Weights = Mapping[str, tf.Tensor]


class Decoder(tf.Module):
    """Llama-style decoder with float32 weights, which can compute in another type."""

    def __init__(self, config: LlamaConfig, seed: int) -> None:
        super().__init__(name="decoder")
        self._config = config
        self._seed, self._drawn = seed, 0
        self._embedding = self._normal("embedding", config.vocabulary, config.dim)
        self._layers = [self._layer(f"layer{number}") for number in range(config.layers)]
        self._norm = tf.Variable(tf.ones(config.dim), name="norm")
        self._head = None if config.tied_embeddings else self._normal("head", config.vocabulary, config.dim)

    def _normal(self, name: str, *shape: int, std: float = INIT_STD) -> tf.Variable:
        self._drawn += 1
        drawn = tf.random.stateless_normal(shape, (self._seed, self._drawn), stddev=std)
        return tf.Variable(drawn, name=name)

    def _layer(self, name: str) -> dict[str, tf.Variable]:
        config = self._config
        kv_dim = config.kv_heads * config.head_dim
        narrow = INIT_STD / math.sqrt(2 * config.layers)
        return {
            "queries": self._normal(f"{name}_queries", config.dim, config.dim),
            "keys": self._normal(f"{name}_keys", config.dim, kv_dim),
            "values": self._normal(f"{name}_values", config.dim, kv_dim),
            "output": self._normal(f"{name}_output", config.dim, config.dim, std=narrow),
            "gate": self._normal(f"{name}_gate", config.dim, config.feed_forward),
            "up": self._normal(f"{name}_up", config.dim, config.feed_forward),
            "down": self._normal(f"{name}_down", config.feed_forward, config.dim, std=narrow),
            "attention_norm": tf.Variable(tf.ones(config.dim), name=f"{name}_attention_norm"),
            "feed_forward_norm": tf.Variable(tf.ones(config.dim), name=f"{name}_feed_forward_norm"),
        }

    def logits(self, tokens: tf.Tensor, compute: tf.DType) -> tf.Tensor:
        """Return the logits of the next token in float32; matrix products run in the type `compute`."""
        embedding = tf.cast(self._embedding, compute)
        x = tf.gather(embedding, tokens)
        cos_sin = rotary_table(tokens.shape[1], self._config)
        for layer in self._layers:
            weights = {name: tf.cast(weight, compute) for name, weight in layer.items()}
            x = x + attention(self._normed(x, weights["attention_norm"]), weights, cos_sin, self._config)
            x = x + feed_forward(self._normed(x, weights["feed_forward_norm"]), weights)
        head = embedding if self._head is None else tf.cast(self._head, compute)
        found = tf.matmul(self._normed(x, tf.cast(self._norm, compute)), head, transpose_b=True)
        return tf.cast(found, tf.float32)

    def _normed(self, x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        exact = tf.cast(x, tf.float32)
        squares = tf.reduce_mean(exact * exact, axis=-1, keepdims=True)
        scale = tf.math.rsqrt(squares + self._config.norm_epsilon)
        return tf.cast(exact * scale, x.dtype) * weight


def rotary_table(length: int, config: LlamaConfig) -> tuple[tf.Tensor, tf.Tensor]:
    exponents = tf.range(0, config.head_dim, 2, dtype=tf.float32) / config.head_dim
    angles = tf.range(length, dtype=tf.float32)[:, None] * tf.pow(config.rope_theta, -exponents)[None, :]
    return tf.cos(angles), tf.sin(angles)


def rotate(heads: tf.Tensor, cos_sin: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Rotate each pair of numbers of (batch, length, heads, head_dim) by the angle of its position."""
    cos, sin = (tf.cast(table, heads.dtype)[:, None, :] for table in cos_sin)
    even, odd = heads[..., 0::2], heads[..., 1::2]
    turned = tf.stack((even * cos - odd * sin, even * sin + odd * cos), axis=-1)
    return tf.reshape(turned, heads.shape)


def attention(
    x: tf.Tensor, weights: Weights, cos_sin: tuple[tf.Tensor, tf.Tensor], config: LlamaConfig
) -> tf.Tensor:
    batch, length, _ = x.shape

    def split(name: str, heads: int) -> tf.Tensor:
        return tf.reshape(tf.matmul(x, weights[name]), (batch, length, heads, config.head_dim))

    shared = config.heads // config.kv_heads
    queries = rotate(split("queries", config.heads), cos_sin)
    keys = tf.repeat(rotate(split("keys", config.kv_heads), cos_sin), shared, axis=2)
    values = tf.repeat(split("values", config.kv_heads), shared, axis=2)
    scores = tf.cast(tf.einsum("bqhd,bkhd->bhqk", queries, keys), tf.float32) / math.sqrt(config.head_dim)
    is_past = tf.linalg.band_part(tf.ones((length, length), tf.bool), -1, 0)
    shares = tf.nn.softmax(tf.where(is_past, scores, scores.dtype.min))
    mixed = tf.einsum("bhqk,bkhd->bqhd", tf.cast(shares, x.dtype), values)
    return tf.matmul(tf.reshape(mixed, (batch, length, config.dim)), weights["output"])


def feed_forward(x: tf.Tensor, weights: Weights) -> tf.Tensor:
    gated = tf.nn.silu(tf.matmul(x, weights["gate"])) * tf.matmul(x, weights["up"])
    return tf.matmul(gated, weights["down"])
