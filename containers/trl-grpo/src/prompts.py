"""Prompts with their expected answers, and the rewards of answers. Imports no PyTorch."""

import json
import runpy
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from training.errors import DataError, TrainingError
from training.storage import find_files
from training.text_files import read_lines

LETTER = "a"


def read_prompts(options: Namespace) -> list[dict[str, str]]:
    """Return the prompts of --data, or synthetic ones; raise DataError with file and line."""
    if not options.data:
        return [{"prompt": f"{word}:", "answer": LETTER} for word in ("write", "letters", "again", "more")]
    found = [
        read_prompt(line, f"{file.name}:{row}")
        for file in find_files(options.data, [".jsonl"])
        for row, line in enumerate(read_lines(file, options.cache_dir), 1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"{options.data[0]}: no prompts")
    return found


def read_prompt(line: bytes, where: str) -> dict[str, str]:
    try:
        entry = json.loads(line)
    except ValueError as error:  # also for bytes that are not UTF-8
        raise DataError(f"{where}: invalid JSON: {error}") from error
    texts = {key: entry.get(key) for key in ("prompt", "answer")} if isinstance(entry, dict) else {}
    for key in ("prompt", "answer"):
        if not isinstance(texts.get(key), str) or not texts[key]:
            raise DataError(f"{where}: no text under the key '{key}'")
    return texts


def choose_reward(options: Namespace) -> Callable[..., list[float]]:
    """Return the function of --reward, or the one that fits the data."""
    if options.reward:
        return load_reward(options.reward)
    return contains_answer if options.data else share_of_letter


def load_reward(path: Path) -> Callable[..., list[float]]:
    """Return the function `reward` of a Python file; raise TrainingError if there is none."""
    try:
        found = runpy.run_path(str(path)).get("reward")
    except (OSError, SyntaxError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TrainingError(f"--reward {path}: {reason}") from error
    if not callable(found):
        raise TrainingError(f"--reward {path}: has no function named 'reward'")
    return found


def contains_answer(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """Return 1 for each completion that contains the expected answer, else 0."""
    return [float(wanted in text) for text, wanted in zip(completions, answer, strict=True)]


def share_of_letter(completions: Sequence[str], **_: object) -> list[float]:
    """Return the share of the letter in each completion, which a tiny model learns within seconds."""
    return [text.count(LETTER) / max(1, len(text)) for text in completions]
