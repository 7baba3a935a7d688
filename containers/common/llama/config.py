"""Sizes of Llama-style models, read from TOML files. Does not import PyTorch."""

import difflib
import tomllib
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from training.errors import TrainingError

SIZES = Path(__file__).with_name("sizes")


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Shape of a model; heads have the dimension dim / heads and share `kv_heads` keys and values."""

    vocabulary: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    sequence: int  # default number of tokens per example
    tied_embeddings: bool = False
    rope_theta: float = 500_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def parameters(self) -> int:
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.dim * self.feed_forward + 2 * self.dim
        embeddings = self.vocabulary * self.dim * (1 if self.tied_embeddings else 2)
        return embeddings + self.layers * block + self.dim


def sizes_of(config: LlamaConfig) -> dict[str, object]:
    """Return the sizes of a model and the number of its parameters."""
    return {**asdict(config), "parameters": config.parameters}


def size_names() -> tuple[str, ...]:
    """Return the names of the sizes in this package, smallest first."""
    return tuple(
        sorted((path.stem for path in SIZES.glob("*.toml")), key=lambda name: named(name).parameters)
    )


def named(name: str) -> LlamaConfig:
    return read_config(SIZES / f"{name}.toml")


def read_config(path: Path) -> LlamaConfig:
    """Return the sizes in a TOML file; raise TrainingError with file and key if one is missing or wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TrainingError(f"{path}: {reason}; copy a file of {SIZES} and change it") from error
    keys = {field.name: field for field in fields(LlamaConfig)}
    for key in values.keys() - keys.keys():
        similar = difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean '{similar[0]}'?" if similar else f"known keys: {', '.join(keys)}"
        raise TrainingError(f"{path}: {key}: unknown key; {hint}")
    for key, field in keys.items():
        if key not in values and field.default is not MISSING:
            continue
        if key not in values:
            raise TrainingError(f"{path}: {key} is missing; copy a file of {SIZES} and change it")
        wanted = {bool: "true or false", int: "a positive integer", float: "a positive number"}[field.type]
        if not _fits(values[key], field.type):
            raise TrainingError(f"{path}: {key} is {values[key]!r}, not {wanted}")
    config = LlamaConfig(**values)
    _check_shape(path, config)
    return config


def _fits(value: object, wanted: object) -> bool:
    if wanted is bool or isinstance(value, bool):
        return wanted is bool and isinstance(value, bool)
    kinds = (int,) if wanted is int else (int, float)
    return isinstance(value, kinds) and value > 0


def _check_shape(path: Path, config: LlamaConfig) -> None:
    if config.dim % config.heads or config.head_dim % 2:
        raise TrainingError(f"{path}: dim {config.dim} / heads {config.heads} is not an even integer")
    if config.heads % config.kv_heads:
        raise TrainingError(f"{path}: heads {config.heads} is not a multiple of kv_heads {config.kv_heads}")
