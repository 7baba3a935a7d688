"""Read files that users write: regular files of bounded size, UTF-8 text, documents of bounded depth.

Knows no file formats. A missing file is a FileNotFoundError; every other problem is a
ValueError whose text is the reason, without the path.
"""

import os
import stat
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LARGEST = 4 << 20  # bytes
_DEEPEST = 50  # levels of tables and lists
_MOST = 1 << 20  # values of a level; a few aliases of YAML can stand for more than memory can hold


class UnreadableError(ValueError):
    """The operating system refuses to read the file."""


def read_bytes(path: Path, *, largest: int = LARGEST) -> bytes:
    """Return the content of a regular file."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableError("is not a regular file")
            content = file.read(min(status.st_size, largest) + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    if len(content) > largest:
        raise ValueError(f"is larger than {largest >> 20} MiB")
    return content


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a named pipe must not wait for its writer


def read_text(path: Path, *, largest: int = LARGEST) -> str:
    """Return the text of a regular file in UTF-8."""
    content = read_bytes(path, largest=largest)
    try:
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(f"is not UTF-8 text: byte 0x{byte:02x} at offset {error.start}") from error


def parse(text: str, parser: Callable[[str], T]) -> T:
    """Return the parsed text; raise ValueError if it is invalid or too deep, or has too many values."""
    try:
        document = parser(text)
    except RecursionError as error:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep") from error
    level: list[object] = [document]
    for _ in range(_DEEPEST):
        level = list(islice((inner for outer in level for inner in _parts(outer)), _MOST + 1))
        if len(level) > _MOST:
            raise ValueError(f"has more than {_MOST} values at one level")
    if level:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    return document


def shortened(value: object, width: int = 100) -> str:
    """Return a value as text for an error message; cut the middle out of a long text."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 20]} … {text[-15:]}"


def _parts(value: object) -> list[object]:
    """Return the nested values of a table or list; an empty list for other values."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
