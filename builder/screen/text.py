"""Format text, numbers and colours for all screens, with the standard library only."""

import math
import os
import re
import unicodedata
from collections.abc import Mapping
from typing import TextIO

from builder.values import dataclass

# Terminal escape sequences: CSI, strings (OSC, DCS, SOS, PM, APC) up to their end, two-byte sequences; then
# control characters, characters that reorder or hide text, and lone surrogates, which cannot be encoded.
_CONTROL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    r"|[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    r"|[\ud800-\udfff]"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Colours and the sequences of the live view: move the cursor, erase lines, hide and show the cursor.
_DRAWING = re.compile(r"\x1b\[([0-9;]*[mAJK]|\?25[hl])")

_SGR = {"good": "32", "bad": "1;31", "warn": "33", "work": "36", "dim": "2", "bold": "1"}

STYLE_OF_OUTCOME = {
    "built": "work",
    "pulled": "work",
    "pushed": "work",
    "passed": "good",
    "reused": "dim",
    "present": "dim",
    "skipped": "warn",
    "failed": "bad",
    "stopped": "warn",
}

_SYMBOLS = {
    "built": ("✔", "+"),
    "pulled": ("✔", "+"),
    "pushed": ("✔", "+"),
    "passed": ("✔", "+"),
    "reused": ("●", "="),
    "present": ("●", "="),
    "skipped": ("○", "-"),
    "failed": ("✘", "x"),
    "stopped": ("■", "!"),
}
UNLIMITED = 1 << 20  # width of a stream that is no terminal
_ASCII = str.maketrans({"·": "|", "…": "~", "→": ">", "│": "|"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Capabilities of a text stream: whether it is a terminal, its width, colours, encoding, live drawing."""

    width: int = 80
    terminal: bool = False
    colour: bool = False
    unicode: bool = True
    live: bool = False

    def paint(self, text: str, style: str) -> str:
        if not self.colour or not text or style not in _SGR:
            return text
        return f"\x1b[{_SGR[style]}m{text}\x1b[0m"

    def symbol(self, outcome: str) -> str:
        return _SYMBOLS.get(outcome, ("•", "*"))[0 if self.unicode else 1]

    def plain(self, text: str) -> str:
        """Replace the characters that the stream cannot encode."""
        return text if self.unicode else text.translate(_ASCII).encode("ascii", "replace").decode()


def look(stream: TextIO, environment: Mapping[str, str]) -> Look:
    """Return the capabilities of `stream`; respects NO_COLOR, TERM=dumb; pipes have no width limit."""
    terminal = stream.isatty()
    capable = terminal and environment.get("TERM", "dumb") != "dumb"
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return Look(
        width=_width(stream, environment) if terminal else UNLIMITED,
        terminal=terminal,
        colour=capable and not environment.get("NO_COLOR"),
        unicode=encoding.startswith("utf"),
        live=capable,
    )


def _width(stream: TextIO, environment: Mapping[str, str]) -> int:
    columns = environment.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    # A serial console that does not know its size reports 0 columns.
    return os.get_terminal_size(stream.fileno()).columns or 80


def duration(seconds: float) -> str:
    """Format a duration: 65 ms, 23.8 s, 1 min 05 s, 1 h 02 min."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def roughly(seconds: float) -> str:
    """Format an estimated duration: about 50 s, about 3 min, about 2 h."""
    if seconds < 55:
        return f"about {max(math.ceil(seconds / 5), 1) * 5} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 100 else f"about {round(minutes / 60)} h"


def clock(seconds: float) -> str:
    """Format the time since the start of a run: 02:31, or 1:02:31 after an hour."""
    whole = max(int(seconds), 0)
    minutes = f"{whole // 60 % 60:02}:{whole % 60:02}"
    return minutes if whole < 3600 else f"{whole // 3600}:{minutes}"


def size(size_bytes: int) -> str:
    """Format a size in decimal units: 0 B, 61 MB, 1.24 GB."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    digits = 2 if unit in ("GB", "TB") and value < 99.5 else 1 if value < 9.95 else 0
    return f"{value:.{digits}f} {unit}"


def short(key: str) -> str:
    """Return the first 12 characters of a key or digest."""
    return key.removeprefix("sha256:")[:12]


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clean(line: str) -> str:
    """Remove control sequences, reordering characters and overwritten text from a line of output."""
    visible = _CONTROL.sub(_escaped, line.rstrip("\r\n"))
    # A progress bar rewrites its line; keep only its last state.
    return visible.rpartition("\r")[2].replace("\n", " ").expandtabs(8)


def clean_lines(text: str) -> str:
    """Clean each line of a text."""
    return "\n".join(clean(line) for line in text.split("\n"))


def coloured(text: str) -> str:
    """Remove control sequences and reordering characters from a text, but keep colours and line ends."""
    kept = _CONTROL.sub(lambda match: match[0] if _COLOUR.fullmatch(match[0]) else _escaped(match), text)
    return kept.replace("\r", "")


def printable(text: str) -> str:
    """Remove all control sequences but colours and those of the live view; applied to all output."""
    return _CONTROL.sub(lambda match: match[0] if _DRAWING.fullmatch(match[0]) else _escaped(match), text)


def _escaped(match: re.Match[str]) -> str:
    """Escape a lone surrogate, such as an invalid byte of a file name; return "" for any other match."""
    return match[0].encode("ascii", "backslashreplace").decode() if "\ud800" <= match[0] <= "\udfff" else ""


def cells(text: str) -> int:
    """Return the number of terminal columns that `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_cell(character) for character in text)


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, width: int) -> str:
    """Cut `text` to at most `width` columns; a cut text ends in an ellipsis."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _cell(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…" if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Cut or pad `text` to exactly `width` columns."""
    text = clip(text, width)
    fill = " " * (width - cells(text))
    return fill + text if right else text + fill


def wrap(text: str, width: int) -> list[str]:
    """Wrap `text` into lines of at most `width` columns; a wider word has a line of its own."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            if line and cells(line) + 1 + cells(word) > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def transferred(sent_bytes: int, present_bytes: int) -> str:
    """Format the transferred bytes of a publication; "" if it only updated SSM parameters."""
    if not sent_bytes and not present_bytes:
        return ""
    return f"{size(sent_bytes)} sent, {size(present_bytes)} already there"
