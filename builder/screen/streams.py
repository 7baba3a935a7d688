"""Handle the loss of stdout and stderr: a lost stderr is ignored, a lost stdout raises OutputLost."""

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from builder.screen.text import printable

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LONGEST_KEPT = 50_000  # characters of a stream's text


class OutputLost(OSError):
    """stdout cannot be written: its reader has exited, the disk is full, or it was closed at the start."""

    @property
    def reader_is_gone(self) -> bool:
        return self.errno == errno.EPIPE


class _Stdout(io.FileIO):
    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error


class _Stderr(io.FileIO):
    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes  # nothing is lost: the log file of the run has the same lines


def guard_streams() -> None:
    """Replace sys.stdout and sys.stderr by streams that handle their loss.

    Raises OutputLost if stdout is closed. Closed descriptors 0 to 2 are opened on /dev/null, so that no other
    file gets their numbers; descriptor 1 is opened read-only, so that writing to stdout still fails.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number, which is `number`
    stdout, stderr = _Stdout(1, "w", closefd=False), _Stderr(2, "w", closefd=False)
    sys.stdout = _text(stdout, sys.stdout, errors="strict")
    sys.stderr = _text(stderr, sys.stderr, errors="backslashreplace")
    stdout.write(b"")


def discard(stream: TextIO) -> None:
    """Redirect a broken stream to /dev/null, because flushing its buffer at exit would fail again."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class _Text(io.TextIOWrapper):
    """Text stream that passes only colours and the live view's control sequences to the terminal."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._written: list[str] = []
        self._size = 0

    def write(self, text: str, /) -> int:
        shown = printable(text)
        super().write(shown)
        if self._size <= _LONGEST_KEPT:
            self._written.append(shown)
            self._size += len(shown)
        return len(text)

    @property
    def written(self) -> str | None:
        """All text that was written so far; None if it is too long to be kept."""
        return "".join(self._written) if self._size <= _LONGEST_KEPT else None


def written() -> dict[str, str] | None:
    """Return all text that this process has printed, by stream; None if it was not kept."""
    texts = {
        name: stream.written if isinstance(stream, _Text) else None
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
    }
    kept = {name: text for name, text in texts.items() if text is not None}
    return kept if len(kept) == len(texts) else None


def _text(raw: io.FileIO, before: TextIO | None, *, errors: str) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    is_line_buffered = raw.isatty() or isinstance(raw, _Stderr)
    return _Text(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=is_line_buffered)
