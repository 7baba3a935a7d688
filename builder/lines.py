"""Split the output of programs into lines; time is linear and memory bounded, whatever a program prints."""

import codecs
from collections.abc import Callable, Iterable

LONGEST = 1 << 20  # characters of a line that are kept


class Lines:
    """Splitter of text that arrives in pieces; cuts lines that are longer than `LONGEST`."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0

    def add(self, text: str) -> list[str]:
        """Return the lines that `text` completes."""
        *complete, rest = text.split("\n")
        lines = []
        for piece in complete:
            self._keep(piece)
            lines.append(self._take())
        self._keep(rest)
        return lines

    def end(self) -> list[str]:
        """Return the last line if it has no newline."""
        return [self._take()] if self._size else []

    def _keep(self, piece: str) -> None:
        if piece and self._size < LONGEST:
            self._pieces.append(piece[: LONGEST - self._size])
        self._size += len(piece)

    def _take(self) -> str:
        line, cut = "".join(self._pieces), self._size - LONGEST
        self._pieces, self._size = [], 0
        return f"{line}… ({cut} characters cut)" if cut > 0 else line


def pass_lines(chunks: Iterable[bytes], on_line: Callable[[str], None]) -> None:
    """Call `on_line` for each line of a byte stream, without its line end."""
    splitter, decoder = Lines(), codecs.getincrementaldecoder("utf-8")("replace")
    for chunk in chunks:
        for line in splitter.add(decoder.decode(chunk)):
            on_line(line.rstrip("\r"))
    for line in (*splitter.add(decoder.decode(b"", final=True)), *splitter.end()):
        on_line(line)
