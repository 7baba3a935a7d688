"""Time and memory of the builder stay bounded for any output of a program or role and for large catalogs."""

import json
import shutil
import sys
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from builder.adapters.ansible.playbook import Listener
from builder.adapters.host import process
from builder.cli.main import main
from builder.errors import BuildError
from builder.events import Event, Recorder, Stream
from builder.lines import LONGEST, Lines, pass_lines
from builder.screen.steps import Board
from tests.support.repository import Repository

MIB = 1 << 20


@pytest.fixture
def peak() -> Iterator[None]:
    """Fail the test if its peak memory exceeds 24 MiB."""
    tracemalloc.start()
    yield
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * (8 + 4) * MIB


def endless(size: int, *, piece: bytes) -> Iterator[bytes]:
    for _ in range(size // len(piece)):
        yield piece


def test_a_catalog_of_500_targets_is_read_once(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    target = repository.root / "catalog/targets/hello.toml"
    for number in range(499):
        shutil.copy(target, target.with_name(f"hello-{number}.toml"))
    assert main(["list", "--names", "--root", str(repository.root)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 500
    assert main(["show", "hello-498", "--root", str(repository.root)]) == 0


@pytest.mark.usefixtures("peak")
def test_an_output_line_of_100_mib_is_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    pass_lines(endless(100 * MIB, piece=b"x" * 8192), lines.append)
    (line,) = lines
    assert line == "x" * LONGEST + f"… ({99 * MIB} characters cut)"
    lines.clear()
    pass_lines([b"a" * 2 * MIB + b"\r\nb\r", b"\nc\xc3", b"\xa4"], lines.append)
    assert lines == ["a" * LONGEST + f"… ({MIB + 1} characters cut)", "b", "cä"]


@pytest.mark.parametrize("piece", ["x", "x\n", "\n", "äöü\nend"])
def test_split_into_output_lines_does_not_depend_on_chunk_boundaries(piece: str) -> None:
    splitter = Lines()
    text = piece * 7
    found = [line for character in text for line in splitter.add(character)] + splitter.end()
    assert found == text.removesuffix("\n").split("\n")


@pytest.mark.usefixtures("peak")
def test_a_program_may_print_any_amount_if_a_listener_gets_the_lines() -> None:
    code = f"for _ in range(40): print('x' * {MIB})\nprint('y' * {40 * MIB}, end='')"
    count = 0

    def listen(_: str) -> None:
        nonlocal count
        count += 1

    done = process.run([sys.executable, "-c", code], timeout_s=60, on_line=listen)
    assert (done.code, count) == (0, 41)
    assert len(done.output) < 10 * MIB
    assert done.output.endswith(f"({39 * MIB} characters cut)")


def test_more_than_8_mib_of_output_without_a_listener_is_an_error() -> None:
    with pytest.raises(BuildError, match="printed more than 8 MiB"):
        process.run(["yes", "x" * 1000], timeout_s=60)


@pytest.mark.usefixtures("peak")
def test_recorded_events_of_a_run_do_not_grow_with_its_log() -> None:
    recorder, board = Recorder(), Board()
    listener = Listener(Stream(recorder, board.read), "hello/system")
    with listener.events.step("hello/system", "system", target="hello"):
        line = "x" * 1000
        for number in range(30_000):  # 30 MB
            listener.line(line)
            if number % 10 == 0:
                listener.line(json.dumps({"event": "task", "role": "base", "task": f"{number}{line}"}))
        for _ in range(50):
            listener.line("y" * LONGEST)
        listener.line("last")
    events = recorder.events
    assert len(events) < 250
    assert [events[0].name, events[-1].text] == ["step.start", "last"]
    assert [event.time_s for event in events] == sorted(event.time_s for event in events)
    assert listener.tail[-1] == board.tail("hello/system")[-1] == "last"


def test_recorder_keeps_the_order_of_events_and_all_outcomes() -> None:
    recorder = Recorder()
    for number in range(1000):
        recorder(Event(name="step.log", time_s=time.time(), step="a", text=str(number)))
        recorder(Event(name="step.end", time_s=time.time(), step=str(number)))
    names = [event.name for event in recorder.events]
    assert names.count("step.end") == 1000
    assert names[-4:] == ["step.log", "step.end"] * 2
