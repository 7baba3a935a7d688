"""Split shell scripts into commands with line numbers, and commands into options and other words. Pure."""

import shlex
from collections.abc import Iterator, Sequence


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield ("line N", words) of each command; skip lines that shlex cannot split."""
    start = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        start = start if parts else number
        if not parts and line.lstrip().startswith("#"):
            continue
        parts.append(line.removesuffix("\\"))
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(" ".join(parts))
        except ValueError:
            words = []
        parts = []
        if words:
            yield f"line {start}", words


def split_options(
    words: Sequence[str], with_value: Sequence[str] = ()
) -> tuple[list[tuple[str, str]], list[str]]:
    """Split words into leading options (name, value) and the words after them; `--` ends the options.

    The value of an option follows `=`; for the options in `with_value`, it may be the next word.
    """
    options: list[tuple[str, str]] = []
    i = 0
    while i < len(words) and words[i].startswith("-"):
        if words[i] == "--":
            return options, list(words[i + 1 :])
        name, equals, value = words[i].partition("=")
        if name in with_value and not equals and i + 1 < len(words):
            i += 1
            value = words[i]
        options.append((name, value))
        i += 1
    return options, list(words[i:])
