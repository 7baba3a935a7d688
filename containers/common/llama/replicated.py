"""Data-parallel training of the Llama-style model with DistributedDataParallel."""

from argparse import Namespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from llama.model import Llama
from llama.options import chosen_config, chosen_length, identity
from llama.steps import make_optimizer, next_token_loss, update
from training.torch_ranks import TorchRanks
from training.torch_saving import Replicated


class ReplicatedLlama(Replicated):
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
