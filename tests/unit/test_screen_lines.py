"""Exact plain-text, NDJSON and log file output of a sample run."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

import pytest

from builder.errors import BuildError
from builder.events import Event
from builder.screen.files import RunFiles
from builder.screen.ndjson import JsonLines
from builder.screen.plain import PlainLines
from tests.unit.test_screen_attempt import a_run, event

PLAIN = """\
  00:00  run     builder build --target cpu-ddp
  00:00  start   cpu-ddp: base
  00:00  reused  cpu-ddp: base (121 MB): in this engine
  00:00  start   cpu-ddp: libfabric, openmpi
  00:01            libfabric, openmpi: libfabric : Install the packages
  00:02  note    packages come from the mirror of this host
  01:06  built   cpu-ddp: libfabric, openmpi (1 min 06 s, 61 MB): changed: role
  01:06  start   cpu-ddp: python_env
  01:06            elsewhere: something unannounced
  01:08  failed  cpu-ddp: python_env (2.0 s): pip refused torch
  01:08            | ERROR: hashes do not match
  01:08  failed  run, 1 min 08 s
"""

LOG = """\
22:13:20.000 run.start builder build --target cpu-ddp run=r1
22:13:21.600 [fabric] ok: done
22:13:22.000 note packages come from the mirror of this host
22:14:28.000 [python] step.end pip refused torch outcome=failed seconds=2.0
22:14:28.500 run.end ok=False seconds=68.5
"""


def test_plain_lines_of_a_failed_run() -> None:
    stream = io.StringIO()
    screen = PlainLines(stream)
    for each in a_run():
        screen(each)
    assert stream.getvalue() == PLAIN


def test_plain_lines_of_a_successful_run() -> None:
    stream = io.StringIO()
    screen = PlainLines(stream)
    screen(event("run.start", 0, text="builder build"))
    screen(event("step.end", 3725, "late", "never started", outcome="built", seconds=3.0))
    screen(event("run.end", 3725, ok=True, seconds=3725))
    assert stream.getvalue() == (
        "  00:00  run     builder build\n"
        "1:02:05  built   late (3.0 s): never started\n"
        "1:02:05  done    run, 1 h 02 min\n"
    )


def test_plain_lines_of_an_interrupted_run() -> None:
    stream = io.StringIO()
    screen = PlainLines(stream)
    screen(event("run.start", 0, text="builder build"))
    screen(event("step.start", 1, "s", "layer"))
    screen(event("step.log", 1, "s", "a line"))
    screen(event("step.end", 2, "s", "interrupted", outcome="stopped", seconds=1.0))
    screen(event("note", 2, text="interrupted by SIGINT"))
    screen(event("run.end", 3, text="stopped", ok=False, seconds=3))
    assert stream.getvalue() == (
        "  00:00  run     builder build\n"
        "  00:01  start   layer\n"
        "  00:02  stopped layer (1.0 s): interrupted\n"
        "  00:02  note    interrupted by SIGINT\n"
        "  00:03  stopped run, 3.0 s\n"
    )


def test_only_the_last_lines_of_a_failed_step_are_printed() -> None:
    stream = io.StringIO()
    screen = PlainLines(stream)
    screen(event("step.start", 0, "s", "layer"))
    for number in range(40):
        screen(event("step.log", 0, "s", f"line {number}"))
    screen(event("step.end", 1, "s", "broke", outcome="failed", seconds=1.0))
    logged = [line.split("| ")[1] for line in stream.getvalue().splitlines() if "| " in line]
    assert logged == [f"line {number}" for number in range(25, 40)]


class Writes(io.StringIO):
    """Text stream that records the argument of each write call."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[str] = []

    def write(self, text: str) -> int:
        self.each.append(text)
        return super().write(text)


@pytest.mark.parametrize(
    "screen", [PlainLines, partial(JsonLines, on_lost=lambda: None)], ids=["PlainLines", "JsonLines"]
)
def test_every_write_is_one_whole_line(screen: Callable[[TextIO], Callable[[Event], None]]) -> None:
    stream = Writes()
    write = screen(stream)
    for each in a_run():
        write(each)
    assert stream.each
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in stream.each)


def test_json_lines_carry_every_event_unchanged() -> None:
    stream = io.StringIO()
    screen = JsonLines(stream, on_lost=lambda: None)
    for each in a_run():
        screen(each)
    lines = stream.getvalue().splitlines()
    assert lines[0] == (
        '{"name":"run.start","time_s":1700000000.0,"step":"",'
        '"text":"builder build --target cpu-ddp","fields":{"run":"r1"}}'
    )
    for line, each in zip(lines, a_run(), strict=True):
        assert json.loads(line) == {
            "name": each.name,
            "time_s": each.time_s,
            "step": each.step,
            "text": each.text,
            "fields": dict(each.fields),
        }


def test_json_lines_escape_invalid_text() -> None:
    stream = io.StringIO()
    JsonLines(stream, on_lost=lambda: None)(event("step.log", 0, "s", "caf\u00e9 \udcff \u2028 end\nnext"))
    assert stream.getvalue().isascii()
    assert len(stream.getvalue().splitlines()) == 1


def test_run_folder_gets_a_text_log_and_the_events_as_ndjson(tmp_path: Path) -> None:
    wanted = {"run.start", "note", "step.log", "run.end"}
    events = [each for each in a_run() if each.name in wanted or each.text == "pip refused torch"]
    del events[3]  # the log line of the failed step
    with RunFiles(tmp_path / "run") as files:
        for each in events:
            files(each)
    assert (tmp_path / "run" / "log.txt").read_text() == LOG
    stream = io.StringIO()
    for each in events:
        JsonLines(stream, on_lost=lambda: None)(each)
    assert (tmp_path / "run" / "events.ndjson").read_text() == stream.getvalue()


def test_run_files_are_on_disk_before_they_are_closed(tmp_path: Path) -> None:
    with RunFiles(tmp_path) as files:
        files(event("step.log", 0, "s", "first\nsecond \x1b[31mred\x1b[0m \udcff"))
        assert (tmp_path / "log.txt").read_text() == (
            "22:13:20.000 [s] first\n22:13:20.000 [s] second red \\udcff\n"
        )
        assert (tmp_path / "events.ndjson").read_text().count("\n") == 1


def test_full_disk_is_reported_once_and_does_not_break_the_cleanup(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with RunFiles(tmp_path) as files:
        with pytest.raises(BuildError, match="No space left on device") as refusal:
            files(event("note", 0, text="x"))
        assert "df -h" in refusal.value.hint
        files(event("note", 1, text="cleaning up"))
