"""`builder logs`: the list of runs, and the log of a run."""

import threading
from pathlib import Path

import pytest

from builder.adapters.host.workspace import Workspace, find_workspace, open_run
from builder.app import runs
from builder.app.runs import all_runs, find_run, log_lines
from builder.cli.main import main
from builder.errors import UsageError
from builder.events import Stream
from builder.screen.files import RunFiles
from tests.support.output import envelope_of, result_of
from tests.support.repository import Repository


@pytest.fixture
def workspace(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workspace:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(repository.root)
    return find_workspace(repository.root)


def a_run(workspace: Workspace, name: str, *, ending: str = "", ok: bool | None = True) -> Path:
    """Write the folder of a run that succeeded (`ok`), failed (not `ok`) or was killed (None)."""
    folder = workspace.out / "runs" / name
    with RunFiles(folder) as files:
        events = Stream(files)
        events.emit("run.start", text="build", run=name, targets="hello,helium")
        events.emit("step.log", step="hello/base", text=f"line of {name}")
        if ok is not None:
            events.emit("run.end", text=ending, ok=ok, seconds=3.0)
    return folder


def test_runs_are_listed_newest_first_with_their_state(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(workspace, "20260101-000000-hello-aaaaaa")
    a_run(workspace, "20260102-000000-hello-bbbbbb", ok=False)
    a_run(workspace, "20260103-000000-hello-cccccc", ok=False, ending="stopped")
    damaged = a_run(workspace, "20260104-000000-hello-dddddd", ok=None)
    (damaged / "events.ndjson").write_bytes(b'{"fields": 5}\n\xff')
    (workspace.out / "runs" / "20260105-000000-copy-eeeeee").mkdir()
    assert main(["logs"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["run", "command", "targets", "state", "took"]
    assert [(line[0][-6:], *line[1:4]) for line in lines[1:]] == [
        ("dddddd", "", "", "killed"),
        ("cccccc", "build", "hello, helium", "stopped"),
        ("bbbbbb", "build", "hello, helium", "failed"),
        ("aaaaaa", "build", "hello, helium", "done"),
    ]
    assert main(["logs", "--json"]) == 0
    assert [run["state"] for run in result_of(capsys.readouterr().out)][1:] == ["stopped", "failed", "done"]


def test_logs_prints_the_log_of_the_newest_matching_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("20260101-000000-hello-aaaaaa", "20260102-000000-hello-bbbbbb", "20260103-000000-x-cccccc"):
        a_run(workspace, name)
    assert main(["logs", "hello"]) == 0
    printed = capsys.readouterr()
    assert "line of 20260102-000000-hello-bbbbbb\n" in printed.out
    assert printed.err == "run 20260102-000000-hello-bbbbbb\n"
    assert main(["logs", "20260101-000000-hello-aaaaaa", "--json"]) == 0
    result = result_of(capsys.readouterr().out)
    assert (result["name"][-6:], len(result["log"])) == ("aaaaaa", 3)
    assert main(["logs", "nothing", "--json"]) == 2
    printed = capsys.readouterr()
    assert envelope_of(printed.out)["error"]["message"] == "no run 'nothing'"
    assert printed.err == "error: no run 'nothing'\nhint: builder logs\n"


def test_logs_without_runs_prints_that_there_is_no_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs"]) == 0
    assert capsys.readouterr() == ("", "no run yet\n")
    assert main(["logs", "--follow"]) == 2
    assert "no run yet\nhint: builder build TARGET" in capsys.readouterr().err
    assert main(["logs", "--follow", "--json"]) == 2
    assert not all_runs(workspace)


def test_option_follow_prints_log_lines_until_the_run_ends(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_POLL_S", 0.001)
    first, last = threading.Event(), threading.Event()
    names: list[str] = []

    def build() -> None:
        with open_run(workspace, "hello") as run, RunFiles(run.folder) as files:
            names.append(run.name)
            Stream(files).emit("note", text="one")
            first.set()
            assert last.wait(10)
            Stream(files).emit("note", text="two")

    thread = threading.Thread(target=build)
    thread.start()
    assert first.wait(10)
    assert find_run(workspace, "").state == "running"
    followed = log_lines(workspace, names[0], follow=True)
    assert next(followed).endswith("note one")
    assert [line.rpartition(" ")[2] for line in log_lines(workspace, names[0])] == ["one"]
    last.set()
    assert [line.rpartition(" ")[2] for line in followed] == ["two"]
    thread.join(10)
    with pytest.raises(UsageError, match="no run 'x'"):
        find_run(workspace, "x")
