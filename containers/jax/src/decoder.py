"""Llama-style decoder as pure functions: RMSNorm, rotary positions, grouped-query attention and SwiGLU."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from llama.config import LlamaConfig

INIT_STD = 0.02
Parameters = dict[str, Any]


def init(config: LlamaConfig, seed: int) -> Parameters:
    """Return random weights; the weights of all layers are stacked, because the layers run as a scan."""
    keys = iter(jax.random.split(jax.random.key(seed), 9))
    kv_dim = config.kv_heads * config.head_dim
    narrow = INIT_STD / math.sqrt(2 * config.layers)

    def normal(*shape: int, std: float = INIT_STD) -> jax.Array:
        return std * jax.random.normal(next(keys), shape)

    layers = config.layers
    blocks = {
        "queries": normal(layers, config.dim, config.dim),
        "keys": normal(layers, config.dim, kv_dim),
        "values": normal(layers, config.dim, kv_dim),
        "output": normal(layers, config.dim, config.dim, std=narrow),
        "gate": normal(layers, config.dim, config.feed_forward),
        "up": normal(layers, config.dim, config.feed_forward),
        "down": normal(layers, config.feed_forward, config.dim, std=narrow),
        "attention_norm": jnp.ones((layers, config.dim)),
        "feed_forward_norm": jnp.ones((layers, config.dim)),
    }
    parameters = {"embedding": normal(config.vocabulary, config.dim), "blocks": blocks}
    parameters["norm"] = jnp.ones(config.dim)
    if not config.tied_embeddings:
        parameters["head"] = normal(config.dim, config.vocabulary)
    return parameters


def logits(parameters: Parameters, tokens: jax.Array, config: LlamaConfig) -> jax.Array:
    """Return the logits of the next token, in the type of the parameters."""
    cos_sin = rotary_table(tokens.shape[1], config)

    # The backward pass computes the activations of a block again.
    @jax.checkpoint
    def block(x: jax.Array, weights: Parameters) -> tuple[jax.Array, None]:
        x = x + attention(rms_norm(x, weights["attention_norm"], config), weights, cos_sin, config)
        return x + feed_forward(rms_norm(x, weights["feed_forward_norm"], config), weights), None

    x, _ = jax.lax.scan(block, parameters["embedding"][tokens], parameters["blocks"])
    head = parameters["embedding"].T if config.tied_embeddings else parameters["head"]
    return rms_norm(x, parameters["norm"], config) @ head


def rms_norm(x: jax.Array, weight: jax.Array, config: LlamaConfig) -> jax.Array:
    exact = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(exact * exact, axis=-1, keepdims=True) + config.norm_epsilon)
    return (exact * scale).astype(x.dtype) * weight


def rotary_table(length: int, config: LlamaConfig) -> tuple[jax.Array, jax.Array]:
    exponents = jnp.arange(0, config.head_dim, 2) / config.head_dim
    angles = jnp.outer(jnp.arange(length), config.rope_theta**-exponents)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(heads: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate each pair of numbers of (batch, length, heads, head_dim) by the angle of its position."""
    cos, sin = (table[:, None, :] for table in cos_sin)
    even, odd = heads[..., 0::2], heads[..., 1::2]
    turned = jnp.stack((even * cos - odd * sin, even * sin + odd * cos), axis=-1)
    return turned.reshape(heads.shape).astype(heads.dtype)


def attention(
    x: jax.Array, weights: Parameters, cos_sin: tuple[jax.Array, jax.Array], config: LlamaConfig
) -> jax.Array:
    batch, length, _ = x.shape

    def split(name: str, heads: int) -> jax.Array:
        return (x @ weights[name]).reshape(batch, length, heads, config.head_dim)

    queries, keys = split("queries", config.heads), split("keys", config.kv_heads)
    mixed = jax.nn.dot_product_attention(
        rotate(queries, cos_sin), rotate(keys, cos_sin), split("values", config.kv_heads), is_causal=True
    )
    return mixed.reshape(batch, length, -1) @ weights["output"]


def feed_forward(x: jax.Array, weights: Parameters) -> jax.Array:
    return (jax.nn.silu(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]
