"""Split shell text into commands, each with the line on which it begins.

Pure. Covers quotes, continued lines, comments, here-documents, and the operators between commands.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

_HERE = re.compile(r"(?<!<)<<-?\s*(['\"]?)([A-Za-z_]\w*)\1")
# Words before the program of a command: assignments, `sudo` and similar programs, shell keywords.
_PREFIX = re.compile(r"(?:\w+=\S*|sudo|env|exec|time|then|do|else|if|elif|while|until|!|\{)$")


@dataclass(frozen=True)
class Command:
    """A simple command: its first line, and its text with continued lines joined and comments removed."""

    line: int
    text: str

    @cached_property
    def bare(self) -> str:
        """The text of the command with spaces in place of quoted and escaped characters."""
        return re.sub(
            r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", lambda found: " " * len(found[0]), self.text, flags=re.DOTALL
        )

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The program and its arguments, unquoted, without preceding assignments and `sudo` etc."""
        try:
            found = shlex.split(self.text)
        except ValueError:
            found = self.text.split()
        while found and _PREFIX.match(found[0]):
            del found[0]
        return tuple(found)

    @property
    def program(self) -> str:
        return self.words[0].rpartition("/")[2] if self.words else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words after the program that are not options."""
        return tuple(word for word in self.words[1:] if not word.startswith("-"))


def commands(lines: Iterable[tuple[int, str]]) -> tuple[Command, ...]:
    """Split numbered lines of shell text into commands."""
    reader = _Reader()
    for number, line in lines:
        reader.read(number, line)
    reader.end()
    return tuple(reader.found)


class _Reader:
    """Parser state between lines: current command, open quote, end marker of a here-document."""

    def __init__(self) -> None:
        self.found: list[Command] = []
        self._text, self._line, self._quote, self._here = "", 0, "", ""

    def read(self, number: int, line: str) -> None:
        if self._here:
            self._here = "" if line.strip() == self._here else self._here
            return
        if not self._quote and line.lstrip().startswith("#"):
            return
        text = line.rstrip()
        continued = text.endswith("\\")
        for piece, ends in self._pieces(text[:-1] if continued else text):
            if piece and not self._text.strip() and piece.strip():
                self._line = number
            self._text += piece
            if ends:
                self.end()
        if here := _HERE.search(line) if not self._quote else None:
            self._here = here[2]
        self._text += " " if continued or not self._quote else "\n"
        if not continued and not self._quote:
            self.end()

    def end(self) -> None:
        text = self._text.strip()
        if text and not re.match(r"\d*[<>]", text):  # a redirection of a group of commands
            self.found.append(Command(self._line, text))
        self._text = ""

    def _pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield (character, False) for each character, ("", True) for each operator that ends a command."""
        previous = " "
        at = 0
        while at < len(text):
            character = text[at]
            if character == "\\" and self._quote != "'":
                yield text[at : at + 2], False
                at += 2
                previous = "x"
                continue
            if self._quote:
                self._quote = "" if character == self._quote else self._quote
                yield character, False
            elif character in "'\"":
                self._quote = character
                yield character, False
            elif character == "#" and previous.isspace():
                return
            elif character in ";|()" or (
                character == "&" and previous not in "<>" and text[at + 1 : at + 2] != ">"
            ):
                yield "", True
            else:
                yield character, False
            previous = character
            at += 1
