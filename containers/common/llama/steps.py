"""Loss, optimizer and update of the Llama-style model, the same in all programs that train it."""

from argparse import Namespace

import torch
from torch import Tensor, nn

from llama.options import learning_rate_at


def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean cross entropy of each token after the first, given the tokens before it."""
    logits = model(tokens[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def make_optimizer(model: nn.Module, options: Namespace) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.1
    )


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int, options: Namespace
) -> None:
    """Run the backward pass and a step of the optimizer with clipped gradients."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, options)
    optimizer.step()
