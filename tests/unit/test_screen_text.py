"""Text formatting shared by all screens, and detection of a stream's capabilities."""

import io
import subprocess
import sys

import pytest

from builder.screen.text import UNLIMITED, Look, cells, clean, clip, clock, duration, look, pad, size, wrap


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0649, "65 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7325, "2 h 02 min"),
    ],
)
def test_duration_is_rounded_to_a_readable_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (61_400_000, "61 MB"),
        (999_600_000, "1.00 GB"),
        (1_238_000_000, "1.24 GB"),
    ],
)
def test_size_is_rounded_to_a_decimal_unit(size_bytes: int, words: str) -> None:
    assert size(size_bytes) == words


def test_clock_omits_zero_hours_and_is_never_negative() -> None:
    assert [clock(-1), clock(61.9), clock(3725)] == ["00:00", "01:01", "1:02:05"]


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("10%\r50%\r100%\r\n", "100%"),
        ("a\tb\x00\x07", "a       b"),
        ("\x9b31mold", "old"),
    ],
)
def test_clean_removes_control_sequences(line: str, kept: str) -> None:
    assert clean(line) == kept


def test_widths_are_in_columns_not_characters() -> None:
    assert [cells("abc"), cells("图像"), cells("e\u0301")] == [3, 4, 1]
    assert clip("图像工厂", 5) == "图像…"
    assert [clip("abc", 3), clip("abcd", 3), clip("abc", 0)] == ["abc", "ab…", ""]
    assert [pad("ab", 4), pad("ab", 4, right=True), pad("abcdef", 4)] == ["ab  ", "  ab", "abc…"]


def test_wrap_breaks_no_word() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("is sha256:0123456789 here", 6) == ["is", "sha256:0123456789", "here"]
    assert wrap("", 10) == [""]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_screen_capabilities_depend_on_stream_and_environment() -> None:
    environment = {"COLUMNS": "132", "TERM": "xterm"}
    assert look(Terminal(), environment) == Look(
        width=132, terminal=True, colour=True, unicode=True, live=True
    )
    assert not look(Terminal(), {**environment, "NO_COLOR": "1"}).colour
    dumb = look(Terminal(), {**environment, "TERM": "dumb"})
    assert (dumb.live, dumb.colour, dumb.terminal, dumb.width) == (False, False, True, 132)
    piped = Look(width=UNLIMITED, unicode=False)
    assert look(io.TextIOWrapper(io.BytesIO(), "ascii"), environment) == piped


def test_ascii_stream_gets_ascii_characters() -> None:
    ascii_only = Look(unicode=False)
    assert ascii_only.plain("a · b… é") == "a | b~ ?"
    assert ascii_only.symbol("failed") == "x"


def test_screens_import_no_third_party_package_before_drawing() -> None:
    program = """if True:
        import sys
        from builder.screen import attempt, files, live, markup, ndjson, plain, report, summary
        live.LiveTree(sys.stderr, {})
        outside = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)
        print(*sorted(name for name in outside if name in {'rich', 'docker', 'boto3', 'pytest', 'pygments'}))
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
