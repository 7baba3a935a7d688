"""Training program of the image pytorch-fsdp: fully sharded training of a Llama-style model."""

import argparse
import json
import sys
from dataclasses import asdict

from llama_config import CONFIGS
from training.options import end_process, make_parser, parse_options, positive_int, run_program

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


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser(
        description="Train a Llama-style model with FSDP2 (fully_shard) on synthetic data.",
        steps=1000,
        batch_size=1,
        learning_rate=3e-4,
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", choices=tuple(CONFIGS), default="125m", help="size of the model (default: %(default)s)"
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
    sharding = parser.add_argument_group("sharding and memory")
    sharding.add_argument(
        "--shard-ranks",
        type=positive_int,
        metavar="N",
        help="shard within groups of N ranks (for example, of a node) and replicate across the groups "
        "(default: shard over all ranks)",
    )
    sharding.add_argument(
        "--activation-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep only the inputs of each layer and recompute activations in the backward pass",
    )
    sharding.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="compute precision; weights and gradient reduction stay in fp32. "
        "auto selects bf16 on GPUs that support it (default: auto)",
    )
    sharding.add_argument(
        "--async-checkpoint",
        action="store_true",
        help="write checkpoints in the background, from a copy in host memory",
    )
    return parse_options(parser, argv, smoke=SMOKE)


def describe(name: str) -> str:
    config = CONFIGS[name]
    # Each parameter has four float32 values: weight, gradient and two moments of AdamW.
    state_gib = config.parameters * 4 * 4 / 2**30
    return json.dumps(
        {"model": name, **asdict(config), "parameters": config.parameters, "state_gib": round(state_gib, 3)},
        indent=1,
    )


def main(argv: list[str]) -> int:
    options = parse(argv)
    if options.print_config:
        print(describe(options.model))
        return 0

    def start() -> int | None:
        # Imported late, so that --help, --print-config and invalid options work without loading PyTorch.
        from sharded import ShardedLlama
        from training.loop import run

        return run(options, ShardedLlama)

    return run_program(start)


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
