"""Write the run file of a training with picotron's options: config.json, and model.toml with the sizes.

The options are those of upstream's create_config.py. `--model_name` is a size of this image, a TOML file or
the folder of a Hugging Face model, because nothing is downloaded.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama.config import LlamaConfig, named, read_config, size_names
from run_file import options_in
from training.errors import TrainingError
from training.options import end_process, positive_int, run_program

RUN_FILE, MODEL_FILE = "config.json", "model.toml"
UNUSED = ("hf_token", "subset_name", "use_wandb", "use_fused_adam")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write OUT_DIR/EXP_NAME/config.json for train.py --config.",
        epilog="example: create_config.py --out_dir /fsx/conf --exp_name tp2 --tp 2 --model_name 1b --mbs 4",
    )
    parser.add_argument("--out_dir", type=Path, default=Path("tmp"), help="(default: %(default)s)")
    parser.add_argument("--exp_name", default="dummy_exp", help="name of the run (default: %(default)s)")
    for name, what in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data"), ("cp", "context")):
        parser.add_argument(
            f"--{name}", type=positive_int, default=1, metavar="N", help=f"{what} parallelism (default: 1)"
        )
    parser.add_argument(
        "--pp_engine", choices=("1f1b", "afab"), default="1f1b", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--model_name",
        default="125m",
        metavar="NAME",
        help=f"{', '.join(size_names())}, a TOML file, or the folder of a Hugging Face model (default: 125m)",
    )
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        parser.add_argument(f"--{name}", type=positive_int, metavar="N", help="(default: the model's)")
    parser.add_argument(
        "--grad_acc_steps", type=positive_int, default=1, metavar="N", help="micro-batches per step"
    )
    parser.add_argument("--mbs", type=positive_int, default=1, metavar="N", help="examples per micro-batch")
    parser.add_argument("--seq_len", type=positive_int, default=1024, metavar="N", help="tokens per example")
    parser.add_argument(
        "--total_train_steps", type=positive_int, default=200, metavar="N", help="(default: 200)"
    )
    parser.add_argument("--data", metavar="PATH", help="data as for train.py. If omitted, synthetic data")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json, or 'bytes', for text")
    parser.add_argument("--use_cpu", action="store_true", help="train on CPUs")
    for name in UNUSED:
        given = {"action": "store_true"} if name.startswith("use_") else {}
        parser.add_argument(f"--{name}", help="not used; accepted for command lines of upstream", **given)
    return parser.parse_args(argv)


def model_of(options: argparse.Namespace) -> LlamaConfig:
    """Return the sizes of --model_name with the changes of the other options."""
    path = Path(options.model_name)
    if options.model_name in size_names():
        config = named(options.model_name)
    elif path.is_dir():
        config = sizes_of_folder(path)
    else:
        config = read_config(path)
    names = {"num_hidden_layers": "layers", "num_attention_heads": "heads", "num_key_value_heads": "kv_heads"}
    changes = {names[key]: value for key in names if (value := getattr(options, key))}
    return dataclasses.replace(config, tied_embeddings=False, **changes)


def sizes_of_folder(folder: Path) -> LlamaConfig:
    """Return the sizes in a model's config.json; raise TrainingError if it is not a Llama."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return LlamaConfig(
            vocabulary=found["vocab_size"],
            dim=found["hidden_size"],
            layers=found["num_hidden_layers"],
            heads=found["num_attention_heads"],
            kv_heads=found.get("num_key_value_heads", found["num_attention_heads"]),
            feed_forward=found["intermediate_size"],
            sequence=found["max_position_embeddings"],
            rope_theta=float(found.get("rope_theta", 10_000.0)),
            norm_epsilon=float(found["rms_norm_eps"]),
        )
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{path}: {error}") from error
    except KeyError as error:
        raise TrainingError(f"{path}: {error.args[0]} is missing; the model is not a Llama") from error


def run_of(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the contents of the run file."""
    folder = str(options.out_dir / options.exp_name / "checkpoints")
    return {
        "distributed": {
            "tp_size": options.tp,
            "cp_size": options.cp,
            "pp_size": options.pp,
            "dp_size": options.dp,
            "pp_engine": options.pp_engine,
            "use_cpu": options.use_cpu,
        },
        "model": {"name": MODEL_FILE},
        "training": {
            "seed": 42,
            "learning_rate": 3e-4,
            "total_train_steps": options.total_train_steps,
            "seq_length": options.seq_len,
            "micro_batch_size": options.mbs,
            "gradient_accumulation_steps": options.grad_acc_steps,
        },
        "dataset": {"name": options.data, "tokenizer": options.tokenizer},
        "checkpoint": {"save_dir": folder, "save_frequency": 300},
    }


def write(options: argparse.Namespace) -> None:
    """Write config.json and model.toml, and print the path of config.json."""
    config, folder = model_of(options), options.out_dir / options.exp_name
    for name in UNUSED:
        if getattr(options, name):
            print(f"warning: --{name} is not used", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in dataclasses.asdict(config).items()]
        (folder / MODEL_FILE).write_text("".join(lines), encoding="utf-8")
        run_file = folder / RUN_FILE
        run_file.write_text(json.dumps(run_of(options), indent=4) + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{error.filename}: {error.strerror}") from error
    read_config(folder / MODEL_FILE)
    options_in(run_file)
    print(run_file)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    return run_program(lambda: write(options))


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
