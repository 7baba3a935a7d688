"""Commands of shell scripts: their lines and words, and the options among the words. Pure."""

import shlex
from collections.abc import Iterator, Sequence


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the words of each command; a line that shlex cannot split has none."""
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
    """Return the options before the first other word or `--`, and the words from there on.

    The value of an option follows `=`, or, for those in `with_value`, may be the next word.
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
