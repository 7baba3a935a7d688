"""Training of an MPT model with the trainer of Composer."""

import os
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
import torch
from composer import ComposerModel, DataSpec, Trainer
from composer.algorithms import GradientClipping
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import MptConfig, MptForCausalLM

from llama.config import LlamaConfig
from llama.options import chosen_config, chosen_length, identity, learning_rate_at
from llama.steps import make_optimizer
from training.torch_ranks import TorchRanks
from training.torch_saving import Replicated

INIT_STD = 0.02


class Mpt(ComposerModel):
    """Decoder with linear biases of attention (ALiBi); the batch is a tensor of token numbers."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        sizes = MptConfig(
            d_model=config.dim,
            n_heads=config.heads,
            n_layers=config.layers,
            max_seq_len=config.sequence,
            vocab_size=config.vocabulary,
            initializer_range=INIT_STD,
            use_cache=False,
        )
        self.decoder = MptForCausalLM(sizes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(input_ids=tokens[:, :-1]).logits

    def loss(self, logits: Tensor, tokens: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


class Batches:
    """Data loader that hands out the batch of the current step."""

    batch: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield self.batch


class ComposerMpt(Replicated):
    """Workload whose steps are batches of Composer's trainer, with one replica per rank."""

    program = "mosaicml-mpt"
    unit = "tokens"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        # Composer's name for the variable of torchrun.
        os.environ.setdefault("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
        config = chosen_config(options)
        self.identity = identity(options, self.program)
        self.units_per_step = options.batch_size * chosen_length(options) * ranks.world_size
        self._options, self._ranks = options, ranks
        torch.manual_seed(options.seed)
        self._mpt = Mpt(config)
        self.parameters = self._mpt.decoder.num_parameters()
        self._optimizer = make_optimizer(self._mpt, options)
        self._batches = Batches()
        on_gpu = ranks.device.type == "cuda"
        self._trainer = Trainer(
            model=self._mpt,
            optimizers=self._optimizer,
            train_dataloader=DataSpec(self._batches),
            spin_dataloaders=False,
            algorithms=[GradientClipping(clipping_type="norm", clipping_threshold=1.0)],
            device="gpu" if on_gpu else "cpu",
            precision="amp_bf16" if on_gpu else "fp32",
            device_train_microbatch_size=options.microbatch_size or options.batch_size,
            seed=options.seed,
            dist_timeout=options.timeout_s,
            progress_bar=False,
        )

    @property
    def _model(self) -> nn.Module:
        return self._mpt

    def train_step(self, step: int, batch: NDArray[np.int64]) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._options)
        self._batches.batch = torch.from_numpy(batch)
        self._trainer.fit(duration="1ba")
        loss = self._trainer.state.total_loss_dict["loss/train/total"]  # the mean over all ranks
        return torch.tensor(loss, device=self._ranks.device)
