"""Run Megatron-Core 0.16 on CPUs: patches the functions that create tensors on a GPU unconditionally."""

import torch
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from megatron.core.transformer import utils as transformer_utils


def causal_mask(length: int) -> torch.Tensor:
    return torch.triu(torch.ones(length, length), diagonal=1).bool()


def enable() -> None:
    """Let Megatron-Core create its tensors on the CPU; call it before the model is made."""
    torch.cuda.current_device = lambda: torch.device("cpu")
    transformer_utils.get_default_causal_mask = causal_mask
    from megatron.core.fusions import fused_softmax

    fused_softmax.get_default_causal_mask = causal_mask
    # The tracker of CUDA generators is used for dropout, which the model does not have.
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
