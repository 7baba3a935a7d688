"""Data-parallel training on NeuronCores; NeuronX Distributed shards the optimizer state (ZeRO-1)."""

from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import neuronx_distributed as nxd
import numpy as np
import torch
import torch_xla.core.xla_model as xm
import torch_xla.distributed.xla_backend  # noqa: F401 (registers the backend xla)
from numpy.typing import NDArray
from torch import Tensor

from llama.model import Llama
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from llama.steps import next_token_loss
from training import torch_ranks
from training.torch_ranks import TorchRanks
from training.torch_saving import done

STATE = "state"


@contextmanager
def connect(options: Namespace) -> Iterator[TorchRanks]:
    with torch_ranks.connect(options, device=torch.device("xla"), backend="xla") as ranks:
        yield ranks


class NeuronLlama:
    """Workload with one replica per NeuronCore; each core has its part of the optimizer state."""

    program = "neuronx-distributed"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        config = chosen_config(options)
        # A core loads the part of the optimizer state that it saved.
        self.identity = {**identity(options, self.program), "ranks": ranks.world_size}
        self.parameters = config.parameters
        self.units_per_step = options.batch_size * chosen_length(options) * ranks.world_size
        self._options, self._ranks = options, ranks
        settings = nxd.neuronx_distributed_config(
            optimizer_config={"zero_one_enabled": True, "grad_clipping": True, "max_grad_norm": 1.0}
        )
        self._model = nxd.initialize_parallel_model(settings, lambda: make_model(options))
        self._optimizer = nxd.initialize_parallel_optimizer(
            settings,
            torch.optim.AdamW,
            self._model.parameters(),
            lr=options.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.1,
        )

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        loss = next_token_loss(self._model, torch.from_numpy(batch).to(self._ranks.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._options)
        self._optimizer.step()
        # Compiles and runs the graph of the step; later steps reuse the compiled graph.
        xm.mark_step()
        return loss.detach()

    def save(self, folder: Path) -> "Future[object]":
        nxd.save_checkpoint(str(folder), tag=STATE, model=self._model, optimizer=self._optimizer)
        return done()

    def load(self, folder: Path) -> None:
        nxd.load_checkpoint(str(folder), tag=STATE, model=self._model, optimizer=self._optimizer)


def make_model(options: Namespace) -> Llama:
    """Return the model with the same weights on every rank."""
    model = Llama(chosen_config(options), recompute=options.activation_checkpointing)
    draws = torch.Generator().manual_seed(options.seed)
    model.init_weights(lambda weight, std: weight.normal_(0.0, std, generator=draws))
    return model
