"""Data-parallel training of the Llama-style model with DistributedDataParallel."""

from argparse import Namespace
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from llama.model import Llama
from llama.options import chosen_config, chosen_length, identity
from llama.steps import make_optimizer, next_token_loss, update
from training.torch_ranks import TorchRanks
from training.torch_saving import done, read_whole, write_whole

STATE = "state.pt"


class ReplicatedLlama:
    """Workload with one replica per rank, whose gradients DistributedDataParallel averages."""

    program = "pytorch-ddp"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        config = chosen_config(options)
        self.identity = identity(options, self.program)
        self.parameters = config.parameters
        self.units_per_step = options.batch_size * chosen_length(options) * ranks.world_size
        self._options, self._ranks = options, ranks
        model = Llama(config, recompute=options.activation_checkpointing).to(ranks.device)
        draws = torch.Generator(device=ranks.device).manual_seed(options.seed)
        model.init_weights(lambda weight, std: weight.normal_(0.0, std, generator=draws))
        on_gpu = ranks.device.type == "cuda"
        self._replica = DistributedDataParallel(model, device_ids=[ranks.device] if on_gpu else None)
        self._optimizer = make_optimizer(self._replica, options)

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        loss = next_token_loss(self._replica, torch.from_numpy(batch).to(self._ranks.device))
        update(self._replica, self._optimizer, loss, step, self._options)
        return loss

    def save(self, folder: Path) -> "Future[object]":
        """Write the state on the first rank only, because all replicas are equal."""
        if not self._ranks.is_first:
            return done()
        state = {"model": self._replica.module.state_dict(), "optimizer": self._optimizer.state_dict()}
        return write_whole(state, folder / STATE)

    def load(self, folder: Path) -> None:
        state = read_whole(folder / STATE, self._ranks.device)
        self._replica.module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
