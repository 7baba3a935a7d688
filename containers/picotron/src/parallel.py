"""Llama-style model with data, pipeline and tensor parallelism, in picotron's layout of ranks."""

import dataclasses
from argparse import Namespace
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from layout import layout_of
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from llama.steps import make_optimizer, next_token_loss
from stages import is_split, make_stage, token_loss
from training.torch_ranks import TorchRanks
from training.torch_saving import done, read_whole, write_whole

SCHEDULES = {"1f1b": Schedule1F1B, "afab": ScheduleGPipe}
MAX_NORM = 1.0


class Picotron:
    """Workload with a stage of the model per pipeline rank; each rank of the first replica saves its part."""

    program = "picotron"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        self._options, self._ranks = options, ranks
        layout = layout_of(options, ranks)
        parts = {"tensor_parallel": layout.tensor, "pipeline_parallel": layout.pipeline}
        self.identity = {**identity(options, self.program), **parts}
        self.units_per_step = options.batch_size * chosen_length(options) * layout.data
        # Stages have no common parameters.
        config = dataclasses.replace(chosen_config(options), tied_embeddings=False)
        self.parameters = config.parameters
        shape = (layout.data, layout.pipeline, layout.tensor)
        mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("data", "pipeline", "tensor"))
        self._data, self._pipeline, self._tensor = (mesh.get_group(name) for name in mesh.mesh_dim_names)
        stage = layout.stage(ranks.rank)
        self._model = make_stage(
            config,
            layout.blocks(stage, config.layers),
            self._tensor,
            device=ranks.device,
            seed=options.seed,
        )
        self._optimizer = make_optimizer(self._model, options)
        self._saves = self._data.rank() == 0
        self._state = f"stage-{stage}-part-{self._tensor.rank()}.pt"
        if layout.pipeline > 1:
            place = PipelineStage(
                self._model, stage, layout.pipeline, device=ranks.device, group=self._pipeline
            )
            self._schedule = SCHEDULES[options.pipeline_engine](
                place, options.micro_batches, loss_fn=token_loss
            )

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        tokens = torch.from_numpy(batch).to(self._ranks.device)
        self._optimizer.zero_grad(set_to_none=True)
        # Weights stay in float32; matrix products run in bfloat16 on GPUs.
        with torch.autocast("cuda", torch.bfloat16, enabled=tokens.is_cuda):
            passes = self._pipeline_passes if self._pipeline.size() > 1 else self._passes
            loss = passes(tokens)
        self._average_gradients()
        self._clip_gradients()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._options)
        self._optimizer.step()
        return loss

    def _passes(self, tokens: Tensor) -> Tensor:
        """Add up the gradients of all micro-batches; return the mean loss."""
        losses = []
        for part in tokens.chunk(self._options.micro_batches):
            loss = next_token_loss(self._model, part) / self._options.micro_batches
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _pipeline_passes(self, tokens: Tensor) -> Tensor:
        """Run the pipeline; return the mean loss of the last stage on all stages."""
        last = self._pipeline.size() - 1
        losses: list[Tensor] = []
        if self._pipeline.rank() == 0:
            self._schedule.step(tokens[:, :-1])
        elif self._pipeline.rank() == last:
            self._schedule.step(target=tokens[:, 1:], losses=losses)
        else:
            self._schedule.step()
        loss = torch.stack(losses).detach().mean() if losses else torch.zeros((), device=tokens.device)
        dist.broadcast(loss, group=self._pipeline, group_src=last)
        return loss

    def _average_gradients(self) -> None:
        """Replace the gradients by their mean over all replicas of the model."""
        if self._data.size() == 1:
            return
        gradients = [parameter.grad for parameter in self._model.parameters()]
        vector = nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(vector, group=self._data)
        nn.utils.vector_to_parameters(vector / self._data.size(), gradients)

    def _clip_gradients(self) -> None:
        """Scale the gradients so that the norm over all parts of the model is at most MAX_NORM."""
        # Weights that all ranks of a tensor-parallel group hold are counted once.
        counted = [
            parameter.grad.pow(2).sum()
            for name, parameter in self._model.named_parameters()
            if is_split(name) or self._tensor.rank() == 0
        ]
        total = torch.stack(counted).sum()
        for group in (self._tensor, self._pipeline):
            dist.all_reduce(total, group=group)
        scale = (MAX_NORM / (total.sqrt() + 1e-6)).clamp(max=1.0)
        for parameter in self._model.parameters():
            parameter.grad.mul_(scale)

    def save(self, folder: Path) -> "Future[object]":
        if not self._saves:
            return done()
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        return write_whole(state, folder / self._state)

    def load(self, folder: Path) -> None:
        state = read_whole(folder / self._state, self._ranks.device)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
