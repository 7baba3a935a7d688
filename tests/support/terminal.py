"""Run commands in a pseudo-terminal, and compute the screen that a terminal shows for their output."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROWS = 50
_COLOURS = {"31": "#e06c75", "32": "#8cc265", "33": "#d5b06b", "36": "#56b6c2"}
_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def run(
    command: str, *, folder: Path, environment: Mapping[str, str], columns: int, bound_s: float
) -> tuple[int, str]:
    """Run a command line in bash at a terminal; return its exit code and its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    with subprocess.Popen(
        ["bash", "-c", command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=dict(environment),
        start_new_session=True,
    ) as process:
        os.close(theirs)
        output = b"".join(_read(ours, time.monotonic() + bound_s))
        os.close(ours)  # a command that still runs gets SIGHUP
        code = process.wait(bound_s)
    return code, output.decode(errors="replace")


def _read(terminal: int, deadline: float) -> Iterator[bytes]:
    while select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux reports the end of a terminal as EIO
            return
        if not data:
            return
        yield data


@dataclass(frozen=True)
class Style:
    colour: str = ""
    bold: bool = False
    dim: bool = False


Line = list[tuple[str, Style]]


@dataclass
class Screen:
    """Characters and styles that a terminal shows; interprets the escape sequences of the live view."""

    lines: list[Line] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: Style = field(default_factory=Style)

    def feed(self, output: str) -> None:
        for numbers, letter, move, text in _SEQUENCE.findall(output):
            if text:
                self._write(text)
            elif move == "\n":
                self.row += 1
                while len(self.lines) <= self.row:
                    self.lines.append([])
            elif move == "\r":
                self.column = 0
            elif letter == "m":
                self._paint(numbers)
            elif letter == "A":
                self.row = max(self.row - int(numbers or 1), 0)
            elif letter == "K":
                self.lines[self.row] = [] if numbers == "2" else self.lines[self.row][: self.column]

    @property
    def text(self) -> str:
        return "\n".join(text_of(line).rstrip() for line in self.lines)

    def _write(self, text: str) -> None:
        line = self.lines[self.row]
        for character in text:
            while len(line) <= self.column:
                line.append((" ", Style()))
            line[self.column] = (character, self.style)
            self.column += 1

    def _paint(self, numbers: str) -> None:
        colour, bold, dim = self.style.colour, self.style.bold, self.style.dim
        for number in numbers.split(";"):
            if number in ("", "0"):
                colour, bold, dim = "", False, False
            colour = _COLOURS.get(number, colour)
            bold, dim = bold or number == "1", dim or number == "2"
        self.style = Style(colour, bold, dim)


def text_of(line: Line) -> str:
    return "".join(character for character, _ in line)
