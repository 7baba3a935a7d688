"""Control sequences in text from servers, programs or files never reach a terminal, a log or a report."""

import io
import json
import random
import re
import sys
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.events import Event
from builder.screen import streams, summary, tables
from builder.screen.files import log_lines
from builder.screen.markup import escape
from builder.screen.ndjson import line as json_line
from builder.screen.plain import PlainLines
from builder.screen.text import Look, clean, printable

STRINGS = [
    *("\x1b]52;c;cm0=\x07", "\x1b]52;c;cm0=\x1b\\", "\x1b]0;title", "\x1bP+q544e\x1b\\", "\x1b_x\x1b\\"),
    *("\x1b^x", "\x1bXx\x1b\\", "\x9d52;c;cm0=\x9c", "\x90x\x9c"),
]
SEQUENCES = [
    *(
        "\x1b[2J",
        "\x1b[31;1m",
        "\x1b[6n",
        "\x1b[?1049h",
        "\x1bc",
        "\x1b(0",
        "\x1b#8",
        "\x1b7",
        "\x1b",
        "\x9b2J",
    ),
    *("\x9b2J", "\x1b[", "\x1b]", "\x1b[3", "\x1b\x1b[31m", "\x1b[\x1b]m"),
]
CHARACTERS = [*"\x07\x08\x0e\x7f\x85\x00\r\u202e\u202a\u2066\u2069\u200e\u200f\u061c\u2028\u200b\ufeff\ud800"]
ESCAPES = [*STRINGS, *SEQUENCES, *CHARACTERS, "\U000e0041"]
HARMFUL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def samples() -> list[str]:
    generator = random.Random(0)
    words = [*ESCAPES, "word", " ", "größer", "日本", "[31m", "]0;", "m", "\\"]
    mixed = ["".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(3000)]
    return [*ESCAPES, *(f"a{escape}b" for escape in ESCAPES), *mixed]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return samples()


def test_clean_text_has_no_control_characters(texts: list[str]) -> None:
    for text in texts:
        assert not HARMFUL.search(clean(text)), repr(text)
        assert clean(clean(text)) == clean(text)
        clean(text).encode()
    assert clean("größer 日本 e\u0301 \u200d") == "größer 日本 e\u0301 \u200d"


def test_errors_tables_lines_logs_and_reports_have_no_control_sequences(texts: list[str]) -> None:
    look = Look(colour=False)
    for text in texts:
        stream = io.StringIO()
        PlainLines(stream)(Event(name="note", time_s=0, text=text))
        shown = [
            summary.error(BuildError(text, hint=text, details=text)),
            tables.table((text, "b"), [(text, "c")], look=look),
            "\n".join(log_lines(Event(name="note", time_s=0, text=text, fields={"field": text}))),
            stream.getvalue(),
            escape(text),
        ]
        for output in shown:
            assert not HARMFUL.search(re.sub(r"\x1b\[[0-9;]*m", "", output)), repr(text)
        assert len(log_lines(Event(name="note", time_s=0, text=f"{text}\nforged"))) == 1
        assert json.loads(json_line(Event(name="note", time_s=0, text=text)))["text"] == text
    assert "\x1b" not in summary.error(BuildError("\x1b[31mred\x1b[0m"))


def test_streams_pass_only_colour_and_cursor_codes(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    own = "\x1b[1;31mred\x1b[0m\x1b[2K\x1b[1A\x1b[?25l\x1b[?25h\r\n"
    assert printable(own) == own
    drawing = re.compile(r"\x1b\[([0-9;]*[mAJK]|\?25[hl])|\r")
    for text in texts:
        assert not HARMFUL.search(drawing.sub("", printable(text))), repr(text)


def test_guard_streams_removes_control_sequences_from_stdout_and_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sys.stdout, sys.stderr
    try:
        streams.guard_streams()
        print("\x1b]52;c;cm0=\x07stdout \u202e\ud800")
        print("\x1b]52;c;cm0=\x07stderr \u202e\ud800", file=sys.stderr)
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before
    assert capfd.readouterr() == ("stdout \\ud800\n", "stderr \\ud800\n")


def test_cleaning_takes_linear_time() -> None:
    for text in ("\x1b]" * 200_000, "\x1b[" * 200_000, "\x1b[0;" * 200_000, "\x9b\x1bP" * 200_000):
        assert not HARMFUL.search(clean(text))
