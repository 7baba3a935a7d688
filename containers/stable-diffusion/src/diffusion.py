"""Latent diffusion: a U-Net learns to predict the noise that was added to latents, for given classes."""

from argparse import Namespace
from concurrent.futures import Future
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.point_files import Points
from training.torch_ranks import TorchRanks
from training.torch_saving import done, read_whole, write_whole

STATE = "state.pt"
MAX_NORM = 1.0


class LatentDiffusion:
    """Workload with one replica per rank, whose gradients DistributedDataParallel averages."""

    program = "stable-diffusion"
    unit = "images"

    def __init__(self, options: Namespace, ranks: TorchRanks) -> None:
        sizes = {
            name: getattr(options, name) for name in ("latent_size", "width", "blocks", "classes", "seed")
        }
        self.identity: dict[str, str | int] = {"program": self.program, **sizes}
        self.units_per_step: int = options.batch_size * ranks.world_size
        self._options, self._ranks = options, ranks
        torch.manual_seed(options.seed)
        model = make_model(options).to(ranks.device)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        on_gpu = ranks.device.type == "cuda"
        self._replica = DistributedDataParallel(model, device_ids=[ranks.device] if on_gpu else None)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
        self._schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)

    def train_step(self, step: int, batch: Points) -> Tensor:
        points, labels = (torch.from_numpy(array).to(self._ranks.device) for array in batch)
        size = self._options.latent_size
        latents = points.view(-1, 4, size, size)
        noise, times = self._draw(step, latents)
        noisy = self._schedule.add_noise(latents, noise, times)
        with torch.autocast("cuda", torch.bfloat16, enabled=latents.is_cuda):
            found = self._replica(noisy, times, class_labels=labels).sample
        loss = nn.functional.mse_loss(found.float(), noise)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._replica.parameters(), MAX_NORM)
        self._optimizer.step()
        return loss

    def _draw(self, step: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return random noise and diffusion times for a step; a resumed run draws the same values."""
        seed = (self._options.seed * self._ranks.world_size + self._ranks.rank) * 1_000_003 + step
        draws = torch.Generator(device=latents.device).manual_seed(seed)
        noise = torch.randn(latents.shape, generator=draws, device=latents.device)
        count = self._schedule.config.num_train_timesteps
        times = torch.randint(count, (len(latents),), generator=draws, device=latents.device)
        return noise, times

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


def make_model(options: Namespace) -> UNet2DModel:
    """Return a U-Net with attention in all blocks but the one of the highest resolution."""
    count = options.blocks
    return UNet2DModel(
        sample_size=options.latent_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(options.width * min(1 + i, 4) for i in range(count)),
        down_block_types=("DownBlock2D", *("AttnDownBlock2D",) * (count - 1)),
        up_block_types=(*("AttnUpBlock2D",) * (count - 1), "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        num_class_embeds=options.classes,
    )
