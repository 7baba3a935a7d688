"""Pre-train ESM-2 with BioNeMo's own program, with the counts of nodes and GPUs from torchrun."""

import os
import sys
from collections.abc import Mapping, Sequence


def arguments(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return torchrun's counts of nodes and GPUs as BioNeMo's options, then the user's arguments."""
    per_node = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    nodes = max(1, int(environment.get("WORLD_SIZE", "1")) // per_node)
    return ["--num-nodes", str(nodes), "--num-gpus", str(per_node), *argv]


def main(argv: Sequence[str]) -> None:
    from bionemo.esm2.scripts.train_esm2 import train_esm2_entrypoint

    sys.argv = ["train_esm2", *arguments(argv, os.environ)]
    train_esm2_entrypoint()


if __name__ == "__main__":
    main(sys.argv[1:])
