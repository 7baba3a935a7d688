"""Training of the decoder on all devices, with batches, weights and optimizer state split over them."""

from argparse import Namespace
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

import decoder
from llama.config import LlamaConfig
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from training import array_files
from training.errors import TrainingError
from training.ranks import Ranks, caught
from training.saving import done

LEAF = "leaf-{number:05d}.npy"
WEIGHT_DECAY = 0.1


class JaxLlama:
    """Workload whose step is compiled once for all devices; XLA inserts the collectives."""

    program = "jax"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: Ranks) -> None:
        config = chosen_config(options)
        self.identity = identity(options, self.program)
        self.parameters = config.parameters
        batch = options.batch_size * ranks.world_size
        self.units_per_step = batch * chosen_length(options)
        self._options, self._ranks = options, ranks
        devices = np.array(jax.devices())
        if batch % len(devices):
            raise TrainingError(
                f"{len(devices)} devices do not divide the global batch of {batch}; see --batch-size"
            )
        mesh = Mesh(devices, ("devices",))
        self._batch_sharding = NamedSharding(mesh, PartitionSpec("devices"))
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(b1=0.9, b2=0.95),
            optax.add_decayed_weights(WEIGHT_DECAY),
        )

        def start() -> tuple[decoder.Parameters, Any]:
            parameters = decoder.init(config, options.seed)
            return parameters, optimizer.init(parameters)

        self._shardings = jax.tree.map(partial(split_largest, mesh=mesh), jax.eval_shape(start))
        self._state = jax.jit(start, out_shardings=self._shardings)()
        # Weights stay in float32; matrix products run in bfloat16 on GPUs.
        compute = jnp.float32 if devices[0].platform == "cpu" else jnp.bfloat16
        loss_of = partial(_loss, config=config, compute=compute)

        def step(state: Any, tokens: jax.Array, rate: float) -> tuple[Any, jax.Array]:
            parameters, moments = state
            loss, gradients = jax.value_and_grad(loss_of)(parameters, tokens)
            updates, moments = optimizer.update(gradients, moments, parameters)
            parameters = jax.tree.map(lambda weight, update: weight - rate * update, parameters, updates)
            return (parameters, moments), loss

        everywhere = NamedSharding(mesh, PartitionSpec())
        self._step = jax.jit(step, donate_argnums=0, out_shardings=(self._shardings, everywhere))

    def train_step(self, step: int, batch: NDArray[np.int64]) -> jax.Array:
        tokens = jax.make_array_from_process_local_data(self._batch_sharding, batch.astype(np.int32))
        self._state, loss = self._step(self._state, tokens, learning_rate_at(step, self._options))
        return loss

    def save(self, folder: Path) -> "Future[object]":
        """Collect the arrays one by one and write each on the first process."""
        problem = None
        for number, leaf in enumerate(jax.tree.leaves(self._state)):
            # All processes take part in every collection, also after a failed write.
            array = _whole(leaf)
            if self._ranks.is_first and problem is None:
                path = folder / LEAF.format(number=number)
                _, problem = caught(partial(array_files.write, path, array))
        if problem is not None:
            raise problem
        return done()

    def load(self, folder: Path) -> None:
        """Load a checkpoint; of each array, only the parts on the devices of this process."""
        leaves = [
            array_files.read(folder / LEAF.format(number=number), leaf.shape, leaf.dtype)
            for number, leaf in enumerate(jax.tree.leaves(self._state))
        ]
        state = jax.tree.unflatten(jax.tree.structure(self._state), leaves)
        self._state = jax.tree.map(_placed, state, self._shardings)


def split_largest(shape: jax.ShapeDtypeStruct, mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the largest dimension that the devices divide evenly."""
    count = mesh.devices.size
    order = sorted(range(len(shape.shape)), key=lambda axis: -shape.shape[axis])
    axis = next((axis for axis in order if shape.shape[axis] % count == 0), None)
    names = [None] * len(shape.shape)
    if axis is not None:
        names[axis] = "devices"
    return NamedSharding(mesh, PartitionSpec(*names))


def _loss(
    parameters: decoder.Parameters, tokens: jax.Array, config: LlamaConfig, compute: jnp.dtype
) -> jax.Array:
    """Return the mean cross entropy of each token after the first, given the tokens before it."""
    weights = jax.tree.map(lambda weight: weight.astype(compute), parameters)
    found = decoder.logits(weights, tokens[:, :-1], config).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(found, tokens[:, 1:]).mean()


def _whole(leaf: jax.Array) -> NDArray[Any]:
    found: NDArray[Any] = np.asarray(
        leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True)
    )
    return found


def _placed(array: NDArray[Any], sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
