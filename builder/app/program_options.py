"""Options that `builder launch` and `builder run` share: mounts, and the arguments of the program."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from builder.errors import UsageError
from builder.reading import shortened

T = TypeVar("T")


def folders_by_mount(pairs: Sequence[tuple[str, T]]) -> dict[str, T]:
    """Return the folders of --mount by name; raise UsageError if a name is given twice."""
    (name, times), *_ = Counter(name for name, _ in pairs).most_common(1) or [("", 0)]
    if times > 1:
        raise UsageError(f"--mount {name} is given {times} times", hint=f"give --mount {name} once")
    return dict(pairs)


def program_arguments(words: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments after `--`; raise UsageError if one is not UTF-8 text."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the argument {shortened(word)} of the program is not UTF-8 text",
                hint="encode the argument as UTF-8",
            ) from error
    return tuple(words)
