"""Options of the programs that train the Llama-style model, and its learning rate. Imports no PyTorch."""

import argparse
import json
import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama.config import LlamaConfig, named, read_config, size_names
from training.options import positive_int

# A smoke run: a loss that falls to less than half within 160 steps, on two cores in seconds.
SMOKE = {
    "model": "toy",
    "steps": 160,
    "checkpoint_every": 40,
    "batch_size": 4,
    "warmup": 10,
    "learning_rate": 1e-2,
    "log_every": 40,
    "timeout_s": 60,
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    size = model.add_mutually_exclusive_group()
    size.add_argument(
        "--model", choices=size_names(), default="125m", help="size of the model (default: %(default)s)"
    )
    size.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file with the sizes of your own model; copy one of llama/sizes/ and change it",
    )
    model.add_argument(
        "--sequence-length",
        type=positive_int,
        metavar="N",
        help="tokens per example (default: the model's own)",
    )
    model.add_argument(
        "--warmup",
        type=positive_int,
        default=100,
        metavar="N",
        help="steps until the learning rate reaches its peak (default: %(default)s)",
    )
    model.add_argument(
        "--print-config",
        action="store_true",
        help="print the model's sizes and the memory of its training state, and exit; needs no PyTorch",
    )


def chosen_config(options: Namespace) -> LlamaConfig:
    return read_config(options.config) if options.config else named(options.model)


def chosen_length(options: Namespace) -> int:
    length: int = options.sequence_length or chosen_config(options).sequence
    return length


def identity(options: Namespace, program: str) -> dict[str, str | int]:
    """Return the description of the model that a checkpoint must match to be loaded."""
    sizes = {name: str(value) for name, value in asdict(chosen_config(options)).items()}
    return {"program": program, "seed": options.seed, **sizes}


def describe(options: Namespace, sizes: Mapping[str, Any]) -> str:
    # Each parameter has four float32 values: weight, gradient and two moments of AdamW.
    state_gib = sizes["parameters"] * 4 * 4 / 2**30
    name = str(options.config or options.model)
    return json.dumps({"model": name, **sizes, "state_gib": round(state_gib, 3)}, indent=1)


def learning_rate_at(step: int, options: Namespace) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to a tenth of the peak."""
    peak: float = options.learning_rate
    if step <= options.warmup:
        return peak * step / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return peak * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))
