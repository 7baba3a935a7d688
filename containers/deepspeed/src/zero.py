"""Data-parallel training of the Llama-style model with DeepSpeed's ZeRO."""

import os
from argparse import Namespace
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama.model import Llama
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from llama.steps import make_optimizer, next_token_loss
from settings import settings_of
from training.errors import StorageError, TrainingError
from training.torch_ranks import TorchRanks
from training.torch_saving import done

TAG = "state"  # folder of DeepSpeed's files in a checkpoint


class ZeroLlama:
    """Workload whose state ZeRO shards over the ranks; each rank saves its part."""

    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks, *, program: str = "deepspeed") -> None:
        self.program = program
        # DeepSpeed chooses the accelerator when it is imported.
        os.environ["DS_ACCELERATOR"] = ranks.device.type
        import deepspeed

        # On CPUs, DeepSpeed would compile this operation, which only inference uses; that needs a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        config = chosen_config(options)
        # A rank loads the part that it saved, so a checkpoint needs the same number of ranks and ZeRO stage.
        settings = ranks.together(lambda: settings_of(options, on_gpu=ranks.device.type == "cuda"))
        layout = {"ranks": ranks.world_size, "zero_stage": settings["zero_optimization"]["stage"]}
        self.identity = {**identity(options, program), **layout}
        self.parameters = config.parameters
        self.units_per_step = options.batch_size * chosen_length(options) * ranks.world_size
        self._options, self._ranks = options, ranks
        model = Llama(config, recompute=options.activation_checkpointing).to(ranks.device)
        draws = torch.Generator(device=ranks.device).manual_seed(options.seed)
        model.init_weights(lambda weight, std: weight.normal_(0.0, std, generator=draws))
        try:
            self._engine, *_ = deepspeed.initialize(
                model=model, optimizer=make_optimizer(model, options), config=settings
            )
        except (AssertionError, ValueError) as error:
            raise TrainingError(f"DeepSpeed: {' '.join(str(error).split())}") from error

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        loss = next_token_loss(self._engine, torch.from_numpy(batch).to(self._ranks.device))
        self._engine.backward(loss)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._options)
        self._engine.step()
        return loss.detach()

    def save(self, folder: Path) -> "Future[object]":
        try:
            self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
        except RuntimeError as error:  # torch.save hides the OSError of a full disk
            raise StorageError(f"{folder}: {error}") from error
        for path in (folder / TAG).iterdir():
            flush(path)
        return done()

    def load(self, folder: Path) -> None:
        self._engine.load_checkpoint(str(folder), tag=TAG)


def flush(path: Path) -> None:
    """Wait until a file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
