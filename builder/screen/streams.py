"""stdout and stderr of the program: losing stderr is survived, losing stdout is an error of its own."""

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


class OutputLost(OSError):
    """stdout cannot be written: its reader is gone, its disk is full, or it was never open."""

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
            return memoryview(data).nbytes  # the run's log has everything


def guard_streams() -> None:
    """Replace sys.stdout and sys.stderr by streams that treat a loss as above; raise OutputLost at once
    if stdout is closed.

    A closed descriptor is opened first, so that no other file gets its number: stdout for reading alone,
    which keeps every write failing.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is this one
    stdout, stderr = _Stdout(1, "w", closefd=False), _Stderr(2, "w", closefd=False)
    sys.stdout = _text(stdout, sys.stdout, errors="strict")
    sys.stderr = _text(stderr, sys.stderr, errors="backslashreplace")
    stdout.write(b"")


def discard(stream: TextIO) -> None:
    """Send the rest of a broken stream to /dev/null, as its buffer would fail again at exit."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _text(raw: io.FileIO, before: TextIO | None, *, errors: str) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    is_line_buffered = raw.isatty() or isinstance(raw, _Stderr)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=is_line_buffered
    )
