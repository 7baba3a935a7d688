"""Progress of a run: counted checks, transferred bytes, estimates from receipts, and waits for locks."""

import io
import json
from pathlib import Path

import pytest

from builder.adapters.ansible.playbook import Listener
from builder.adapters.checks import testinfra
from builder.adapters.engine.client import _read_progress
from builder.adapters.host.workspace import Workspace, open_run
from builder.app.estimate import estimate_s
from builder.errors import CheckError, Interrupted
from builder.events import Event, Meter, Recorder, Stream
from builder.screen.files import log_lines
from builder.screen.live import tree
from builder.screen.plain import PlainLines
from builder.screen.steps import Board
from builder.screen.text import Look, roughly
from tests.unit.test_screen_attempt import START_S, event

OUTPUT = """\
============================= test session starts ==============================
collecting ... collected 117 items / 113 deselected / 4 selected

ansible/roles/base/tests/test_base.py::test_users[docker://0a] PASSED    [ 25%]
ansible/roles/base/tests/test_base.py::test_locale[docker://0a] FAILED   [ 50%]
ansible/roles/nccl/tests/test_nccl.py::test_version[docker://0a] SKIPPED [ 75%]
ansible/roles/nccl/tests/test_nccl.py::test_words_like_PASSED[docker://0a] ERROR [100%]
FAILED ansible/roles/base/tests/test_base.py::test_locale[docker://0a] - AssertionError
"""


def test_finished_checks_are_counted_in_the_output_of_pytest() -> None:
    seen: list[Event] = []
    listen = testinfra._listener(Stream(seen.append), "hello/checks")
    for line in OUTPUT.splitlines():
        listen(line)
    progress = [each.fields for each in seen if each.name == "step.progress"]
    assert [(each["done"], each["total"], each["unit"]) for each in progress] == [
        (number, 4, "checks") for number in (1, 2, 3, 4)
    ]
    assert [each.text for each in seen if each.name == "step.task"] == ["base", "nccl"]


def test_progress_events_are_sent_once_a_second_and_at_the_end() -> None:
    seen: list[Event] = []
    times = iter([10.0, 10.4, 11.1, 11.2])
    meter = Meter(Stream(seen.append), "hello/publish", clock=lambda: next(times))
    for done in (1, 2, 3, 4):
        meter(done, 4)
    assert [each.fields["done"] for each in seen] == [1, 3, 4]


def test_pulled_bytes_are_summed_over_the_layers_of_an_image() -> None:
    seen: list[tuple[int, int]] = []
    _read_progress(
        [
            {"status": "Pulling from library/debian"},
            {"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 100}},
            {"status": "Downloading", "id": "b", "progressDetail": {"current": 5, "total": 50}},
            {"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 100}},
            {"status": "Downloading", "id": "a", "progressDetail": {"current": 100, "total": 100}},
        ],
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(10, 100), (15, 150), (105, 150)]


def a_run() -> list[Event]:
    def progress(seconds: float, step: str, done: int, total: int, unit: str) -> Event:
        return event("step.progress", seconds, step, done=done, total=total, unit=unit)

    return [
        event("run.start", 0, text="build"),
        event("run.estimate", 0, seconds=95.0),
        event("step.start", 1, "c", "checks", target="hello"),
        progress(2, "c", 43, 117, "checks"),
        event("step.task", 2, "c", "openmpi"),
        event("step.start", 3, "p", "publish", target="hello"),
        progress(4, "p", 1_000_000, 427_000_000, "bytes"),
        progress(5, "p", 120_000_000, 427_000_000, "bytes"),
    ]


def test_live_view_shows_progress_and_the_time_left() -> None:
    board = Board()
    for each in a_run():
        board.read(each)
    lines = tree(board, now_s=START_S + 12, look=Look(), width=60)
    text = ["".join(part for part, _ in line).rstrip() for line in lines]
    assert text[0].endswith(" 12.0 s, about 1 min left")
    assert text[1].endswith("  43/117 checks openmpi")
    assert text[2].endswith("  120 MB of 427 MB")
    late = tree(board, now_s=START_S + 100, look=Look(), width=60)
    assert "left" not in "".join(part for part, _ in late[0])


def test_plain_output_shows_progress_at_each_task_and_each_quarter() -> None:
    stream = io.StringIO()
    screen = PlainLines(stream)
    for each in a_run():
        screen(each)
    assert stream.getvalue() == (
        "  00:00  run     build\n"
        "  00:00            about 2 min, as earlier runs took\n"
        "  00:01  start   hello: checks\n"
        "  00:02            checks: openmpi (43/117 checks)\n"
        "  00:03  start   hello: publish\n"
        "  00:05            publish: 120 MB of 427 MB\n"
    )


def test_downloaded_bytes_are_shown_with_the_current_ansible_task() -> None:
    stream, board, shown = io.StringIO(), Board(), []
    screen = PlainLines(stream)
    listener = Listener(Stream(screen, board.read), "hello/python")

    def line(kind: str, **fields: object) -> None:
        listener.line(json.dumps({"event": kind, **fields}))
        shown.append(board.rows["hello/python"].progress)

    line("task", role="python_env", task="Install")
    for done, total in ((30, 100), (90, 100), (40, 400), (3, 4), (-1, 100), (2, 1), (1, 1 << 60)):
        line("progress", done=done * 1_000_000, total=total * 1_000_000)
    line("progress", done="a", total=None)
    line("task", role="python_env", task="Compile")
    whole = ["", "30 MB of 100 MB", "90 MB of 100 MB", "40 MB of 400 MB", *["3.0 MB of 4.0 MB"] * 5, ""]
    assert shown == whole
    logged = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    assert logged == ["python_env : Install", "30 MB of 100 MB", "90 MB of 100 MB", "python_env : Compile"]


def test_progress_events_are_not_logged_and_only_the_last_is_recorded() -> None:
    recorder = Recorder()
    for number in range(1000):
        each = event("step.progress", number, "c", done=number, total=1000, unit="checks")
        recorder(each)
        assert log_lines(each) == []
    assert len(recorder.events) == 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "about 5 s"), (50, "about 50 s"), (54.9, "about 55 s"), (61, "about 1 min"), (7300, "about 2 h")],
)
def test_estimated_times_are_rounded(seconds: float, text: str) -> None:
    assert roughly(seconds) == text


def write_receipt(out: Path, target: str, name: str, **more: object) -> None:
    layers = [
        {"name": "base", "outcome": "built", "seconds": 40.0},
        {"name": "python", "outcome": "reused", "seconds": 0.0},
    ]
    table = {
        "format": 1,
        "run": "r1",
        "created": "2026-01-01",
        "report": {"checks": [], "seconds": 10.0},
    } | more
    path = out / "receipts" / target / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"artifact": {"reference": "x", "layers": layers}} | table))


def test_estimated_time_is_the_sum_of_the_newest_times_of_the_steps(tmp_path: Path) -> None:
    def estimate(publish: bool = False, jobs: int = 2, **missing: list[str]) -> float | None:
        return estimate_s(tmp_path, missing, publish=publish, jobs=jobs)

    assert estimate(hello=["base"]) is None
    write_receipt(tmp_path, "hello", "a")
    assert estimate(hello=["base"]) == 50.0
    assert estimate(hello=[]) == 10.0
    assert estimate(hello=["base", "python"]) is None, "python was never built"
    assert estimate(hello=["base"], publish=True) is None
    write_receipt(tmp_path, "hello", "b", publications=[{"run": "r1", "seconds": 7.0}])
    assert estimate(hello=["base"], publish=True) == 57.0
    write_receipt(tmp_path, "second", "a")
    assert estimate(hello=["base"], second=["base"]) == 50.0
    assert estimate(hello=["base"], second=["base"], jobs=1) == 100.0
    assert estimate() is None


def test_a_wait_for_a_lock_names_the_run_that_holds_it(tmp_path: Path) -> None:
    workspace = Workspace(home=tmp_path / "home", out=tmp_path / "out")
    waited: list[str] = []
    with open_run(workspace, "first") as first, open_run(workspace, "second") as second:
        with first.locked("layer"):
            second.cancelled.set()
            with pytest.raises(Interrupted), second.locked("layer", waiting=waited.append):
                pass
        assert waited == [first.name]
        second.cancelled.clear()
        with second.locked("layer", waiting=waited.append) as has_waited:
            assert not has_waited
    assert waited == [first.name]


@pytest.mark.parametrize("text", ["", "<testsuites><testcase"])
def test_check_results_that_a_full_disk_truncated_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "checks.xml").write_text(text)
    with pytest.raises(CheckError, match="the results of the checks are incomplete") as caught:
        list(testinfra._read(tmp_path / "checks.xml"))
    assert caught.value.hint == f"df -h {tmp_path}"
