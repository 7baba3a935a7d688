"""DeepSpeed's command-line options, and DeepSpeed's configuration of a run. Imports no PyTorch."""

import argparse
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from training.errors import TrainingError

# Sections of DeepSpeed's configuration that the program sets → the option to use instead.
DECIDED = {
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size",
    "gradient_accumulation_steps": "--batch-size",
    "optimizer": "--learning-rate",
    "scheduler": "--warmup",
    "fp16": "bfloat16, which GPUs always use",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--zero-stage",
        type=int,
        choices=(0, 1, 2, 3),
        default=2,
        help="what the ranks shard: 1 optimizer state, 2 gradients as well, 3 weights as well "
        "(default: %(default)s)",
    )
    memory.add_argument(
        "--deepspeed-config",
        type=Path,
        metavar="FILE",
        help="JSON file with sections of DeepSpeed's configuration, in addition to those that options set",
    )
    memory.add_argument(
        "--activation-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="keep only the inputs of each layer and recompute activations in the backward pass",
    )


def settings_of(options: Namespace, *, on_gpu: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration from the options and the sections of the user's file."""
    own = read_settings(options.deepspeed_config) if options.deepspeed_config else {}
    zero = {"stage": options.zero_stage, **own.pop("zero_optimization", {})}
    return {
        "train_micro_batch_size_per_gpu": options.batch_size,
        "gradient_clipping": 1.0,
        "zero_optimization": zero,
        # The optimizer is PyTorch's: DeepSpeed compiles its own optimizers when they are first used.
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": on_gpu},
        "steps_per_print": options.steps + 1,
        **own,
    }


def read_settings(path: Path) -> dict[str, Any]:
    """Return the sections of a configuration file; raise TrainingError if an option sets one of them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise TrainingError(f"{path}: not a JSON object")
    for key, option in DECIDED.items():
        if key in found:
            raise TrainingError(f"{path}: {key}: the program sets this key; use {option}")
    zero = found.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise TrainingError(f"{path}: zero_optimization: not a JSON object")
    if "stage" in zero:
        raise TrainingError(f"{path}: zero_optimization.stage: the program sets this key; use --zero-stage")
    return found
