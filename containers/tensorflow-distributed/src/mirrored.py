"""Data-parallel training of the decoder with MultiWorkerMirroredStrategy and AdamW."""

from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from decoder import Decoder
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from tf_ranks import TensorFlowRanks
from training import array_files
from training.errors import TrainingError
from training.saving import done

VARIABLE = "variable-{number:05d}.npy"
MAX_NORM, WEIGHT_DECAY, BETA_1, BETA_2, EPSILON = 1.0, 0.1, 0.9, 0.95, 1e-8


class MirroredDecoder:
    """Workload with a replica per device, whose gradients the strategy averages."""

    program = "tensorflow-distributed"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TensorFlowRanks) -> None:
        config = chosen_config(options)
        self.identity = identity(options, self.program)
        self.parameters = config.parameters
        self.units_per_step = options.batch_size * chosen_length(options) * ranks.world_size
        self._options, self._ranks, self._strategy = options, ranks, ranks.strategy
        self._local = len(self._strategy.extended.worker_devices)
        if options.batch_size % self._local:
            raise TrainingError(
                f"the {self._local} GPUs of a worker do not divide --batch-size {options.batch_size}"
            )
        self._compute = tf.bfloat16 if ranks.device_type == "cuda" else tf.float32
        with self._strategy.scope():
            self._model = Decoder(config, options.seed)
            weights = self._model.trainable_variables
            self._moments = [(zeros_like(weight), zeros_like(weight)) for weight in weights]

    def train_step(self, step: int, batch: NDArray[np.int64]) -> tf.Tensor:
        shares = np.split(batch.astype(np.int32), self._local)
        tokens = self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(shares[context.replica_id_in_sync_group % self._local])
        )
        rate = learning_rate_at(step, self._options)
        return self._step(tokens, tf.constant(rate), tf.constant(step, tf.float32))

    @tf.function
    def _step(self, tokens: tf.Tensor, rate: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        losses = self._strategy.run(self._replica_step, (tokens, rate, step))
        return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)

    def _replica_step(self, tokens: tf.Tensor, rate: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        weights = self._model.trainable_variables
        with tf.GradientTape() as tape:
            found = self._model.logits(tokens[:, :-1], self._compute)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tokens[:, 1:], found)
            loss = tf.reduce_mean(losses)
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, weights)]
        replica = tf.distribute.get_replica_context()
        gradients = replica.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, MAX_NORM)
        replica.merge_call(self._update, (gradients, rate, step))
        return loss

    def _update(
        self,
        strategy: tf.distribute.Strategy,
        gradients: Sequence[tf.Tensor],
        rate: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        weights = self._model.trainable_variables
        for weight, gradient, moments in zip(weights, gradients, self._moments, strict=True):
            strategy.extended.update(weight, adamw, (gradient, *moments, rate, step), group=False)

    def save(self, folder: Path) -> "Future[object]":
        """Write the state on the first worker only, because all replicas are equal."""
        if self._ranks.is_first:
            for number, variable in enumerate(self._variables()):
                array_files.write(folder / VARIABLE.format(number=number), variable.numpy())
        return done()

    def load(self, folder: Path) -> None:
        for number, variable in enumerate(self._variables()):
            shape, dtype = tuple(variable.shape), variable.dtype.as_numpy_dtype
            path = folder / VARIABLE.format(number=number)
            variable.assign(array_files.read(path, shape, dtype))

    def _variables(self) -> list[tf.Variable]:
        return [*self._model.trainable_variables, *(moment for pair in self._moments for moment in pair)]


def zeros_like(weight: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros(weight.shape), trainable=False)


def adamw(
    weight: tf.Variable,
    gradient: tf.Tensor,
    first: tf.Variable,
    second: tf.Variable,
    rate: tf.Tensor,
    step: tf.Tensor,
) -> None:
    """Update a weight and its two moments."""
    first.assign(BETA_1 * first + (1 - BETA_1) * gradient)
    second.assign(BETA_2 * second + (1 - BETA_2) * gradient * gradient)
    mean = first / (1 - tf.pow(BETA_1, step))
    spread = tf.sqrt(second / (1 - tf.pow(BETA_2, step)))
    weight.assign_sub(rate * (mean / (spread + EPSILON) + WEIGHT_DECAY * weight))
