"""Pre-train a model with a recipe of Megatron-Bridge, on mock data or on token files of Megatron."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RECIPES = "megatron.bridge.recipes"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pretrain.py", description=__doc__)
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="MODULE.FUNCTION",
        help=f"function below {RECIPES}, for example qwen.qwen3_moe.qwen3_30b_a3b_pretrain_config",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps (default: the recipe's)")
    parser.add_argument("--global-batch-size", type=int, metavar="N", help="examples per step of all ranks")
    parser.add_argument("--micro-batch-size", type=int, metavar="N", help="examples per rank at once")
    parser.add_argument("--sequence-length", type=int, metavar="N", help="tokens per example")
    for kind in ("tensor", "pipeline", "context", "expert"):
        parser.add_argument(f"--{kind}-parallel", type=int, metavar="N", help=f"degree of {kind} parallelism")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PREFIX",
        help="token files PREFIX.bin and .idx (default: mock data)",
    )
    parser.add_argument("--checkpoint-dir", type=Path, metavar="DIR", help="folder shared by all nodes")
    return parser.parse_args(argv)


def find_recipe(name: str) -> Callable[[], Any]:
    """Return the function of a recipe; if it does not exist, exit and list the recipes of the module."""
    module_name, _, function = name.rpartition(".")
    try:
        module = importlib.import_module(f"{RECIPES}.{module_name}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: --recipe {name}: {error}")
    known = sorted(found for found in dir(module) if found.endswith("_pretrain_config"))
    if function not in known:
        sys.exit(f"error: --recipe {name}: no such recipe; {module_name} has {', '.join(known)}")
    recipe: Callable[[], Any] = getattr(module, function)
    return recipe


def adapt(config: Any, options: argparse.Namespace) -> None:
    """Write the options into the configuration of a recipe."""
    degrees = {
        "tensor_model_parallel_size": options.tensor_parallel,
        "pipeline_model_parallel_size": options.pipeline_parallel,
        "context_parallel_size": options.context_parallel,
        "expert_model_parallel_size": options.expert_parallel,
        "seq_length": options.sequence_length,
    }
    sizes = {
        "train_iters": options.steps,
        "global_batch_size": options.global_batch_size,
        "micro_batch_size": options.micro_batch_size,
    }
    for part, values in ((config.model, degrees), (config.train, sizes)):
        for name, value in values.items():
            if value is not None:
                setattr(part, name, value)
    if options.sequence_length:  # a model refuses data of another length
        config.dataset.sequence_length = options.sequence_length
    if options.data:
        config.dataset.blend = (options.data, None)
    if options.checkpoint_dir:
        config.checkpoint.save = config.checkpoint.load = str(options.checkpoint_dir)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    recipe = find_recipe(options.recipe)
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    config = recipe()
    adapt(config, options)
    pretrain(config=config, forward_step_func=forward_step)


if __name__ == "__main__":
    main(sys.argv[1:])
