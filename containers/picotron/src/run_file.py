"""Run files of picotron (config.json), converted to options of train.py. Imports no PyTorch."""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama.config import size_names
from training.errors import TrainingError

SUFFIX = ".json"
OPTIONS = {
    "distributed.tp_size": "--tensor-parallel",
    "distributed.pp_size": "--pipeline-parallel",
    "distributed.dp_size": "--data-parallel",
    "distributed.pp_engine": "--pipeline-engine",
    "training.seed": "--seed",
    "training.learning_rate": "--learning-rate",
    "training.total_train_steps": "--steps",
    "training.seq_length": "--sequence-length",
    "training.gradient_accumulation_steps": "--micro-batches",
    "dataset.name": "--data",
    "dataset.tokenizer": "--tokenizer",
    "checkpoint.save_dir": "--checkpoint-dir",
    "checkpoint.save_frequency": "--checkpoint-every",
}
# Keys of upstream's config.json that are accepted only with this value, and the reason.
HARMLESS = {
    "distributed.cp_size": (1, "context parallelism is not part of this program"),
    "training.max_tokens": (None, "set training.total_train_steps"),
    "logging.use_wandb": (False, "losses are written to --metrics"),
    "environment.HF_TOKEN": (None, "nothing is downloaded; a token does not belong into a file"),
}
# Keys of upstream's config.json that are ignored, because other settings determine the values.
IGNORED = (
    *("distributed.backend", "model.dtype", "model.use_flash_attention", "model.use_fused_adam"),
    *("training.num_samples", "dataset.subset_name", "dataset.num_workers", "dataset.num_proc"),
    *("dataset.split", "checkpoint.load_path", "logging.project_name", "logging.run_name"),
    *("environment.OMP_NUM_THREADS", "environment.TOKENIZERS_PARALLELISM", "environment.FLASH_ATTEN"),
)
OTHERS = ("distributed.use_cpu", "model.name", "training.micro_batch_size")
KEYS = (*OPTIONS, *HARMLESS, *IGNORED, *OTHERS)


def expanded(argv: Sequence[str]) -> list[str]:
    """Replace `--config FILE.json` by the options in the file; others on the command line override them."""
    for number, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == "--config":
            after = number + (1 if equals else 2)
            path = Path(value if equals else "".join(argv[number + 1 : after]))
            if path.suffix == SUFFIX:
                return [*options_in(path), *argv[:number], *argv[after:]]
    return list(argv)


def options_in(path: Path) -> list[str]:
    """Convert a run file to options of train.py; raise TrainingError with file and key if it is wrong."""
    values = dict(_flat(path, _read(path)))
    for key, value in values.items():
        if key not in KEYS:
            similar = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean '{similar[0]}'?" if similar else "run create_config.py again"
            raise TrainingError(f"{path}: {key}: unknown key; {hint}")
        if key in HARMLESS and value != HARMLESS[key][0]:
            shown = "set" if key.endswith("TOKEN") else json.dumps(value)
            raise TrainingError(f"{path}: {key} is {shown}: {HARMLESS[key][1]}")
    found = list(_model(path, values.get("model.name")))
    if values.get("distributed.use_cpu"):
        found += ["--device", "cpu"]
    for key, option in OPTIONS.items():
        if values.get(key) is not None:
            found += [option, str(values[key])]
    micro = values.get("training.micro_batch_size", 1)
    parts = values.get("training.gradient_accumulation_steps", 1)
    if not all(isinstance(number, int) for number in (micro, parts)):
        raise TrainingError(f"{path}: training: {micro!r} x {parts!r} examples is not a positive integer")
    found += ["--batch-size", str(micro * parts)]
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror}; create_config.py writes such a file") from error
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error


def _flat(path: Path, content: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise TrainingError(f"{path}: not a JSON object of sections; create_config.py writes such a file")
    for section, values in content.items():
        for key, value in values.items():
            yield f"{section}.{key}", value


def _model(path: Path, name: Any) -> Iterator[str]:
    """Yield the option for the model: a size, or a TOML file beside the run file."""
    if name is None:
        return
    if name in size_names():
        yield from ("--model", name)
    elif isinstance(name, str) and name.endswith(".toml"):
        yield from ("--config", str(path.parent / name))
    else:
        raise TrainingError(
            f"{path}: model.name {json.dumps(name)} is neither a size ({', '.join(size_names())}) nor a TOML "
            "file; create_config.py --model_name FOLDER writes a TOML file for a model folder"
        )
