"""Multilayer perceptron that learns a linear rule, trained with DistributedDataParallel."""

from argparse import Namespace
from itertools import pairwise

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.point_files import Points
from training.torch_ranks import TorchRanks
from training.torch_saving import Replicated


class Classification(Replicated):
    """Workload with one replica per rank, whose gradients DistributedDataParallel averages."""

    program = "cpu-ddp"
    unit = "examples"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        sizes = {name: getattr(options, name) for name in ("features", "classes", "width", "depth", "seed")}
        self.identity: dict[str, str | int] = {"program": self.program, **sizes}
        self.units_per_step: int = options.batch_size * ranks.world_size
        self._ranks = ranks
        torch.manual_seed(options.seed)
        model = make_model(options).to(ranks.device)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        on_gpu = ranks.device.type == "cuda"
        self._replica = DistributedDataParallel(model, device_ids=[ranks.device] if on_gpu else None)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)

    def train_step(self, _step: int, batch: Points) -> torch.Tensor:
        points, labels = (torch.from_numpy(array).to(self._ranks.device) for array in batch)
        loss = nn.functional.cross_entropy(self._replica(points), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss


def make_model(options: Namespace) -> nn.Sequential:
    widths = [options.features, *[options.width] * options.depth]
    hidden = [layer for shape in pairwise(widths) for layer in (nn.Linear(*shape), nn.GELU())]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], options.classes))
