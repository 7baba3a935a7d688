"""Unreadable receipts and journals are reported without a traceback and never deleted."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami import journal
from builder.adapters.host import receipts
from builder.adapters.host.receipts import Receipts
from builder.adapters.host.workspace import Run, Workspace, open_run, write_atomically
from builder.app.context import Context
from builder.app.dead_runs import dead_runs
from builder.errors import MissingError
from builder.model import Artifact, Check, LayerResult, Plan, Publication, Report
from tests.support.repository import Repository

LINE = {
    "at": "2026-01-01T00:00:00Z",
    "event": "begun",
    "kind": "image",
    "name": "n",
    "region": "r",
    "place": "123456789012",
    "out": "/out",
}


@pytest.fixture
def workspace(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    return Workspace(home=tmp_path / "home", out=repository.root / "out")


@pytest.fixture
def run(workspace: Workspace) -> Iterator[Run]:
    with open_run(workspace, "build") as opened:
        yield opened


def record(repository: Repository, run: Run) -> tuple[Receipts, Plan, Path]:
    """Store a receipt with all optional fields; return the receipts, the plan and the file."""
    plan = repository.plan()
    layer = LayerResult(name="a", key="k", outcome="built", reason="", image="i", components=("x",))
    artifact = Artifact(kind="container", target="hello", reference="sha256:1", key=plan.key, layers=(layer,))
    check = Check(name="a", component="b", outcome="passed", seconds=1)
    report = Report(reference="sha256:1", checks=(check,), seconds=1.5)
    ledger = Receipts(run.workspace, root=repository.root, run=run)
    ledger.record(plan, artifact, report, (Publication(name="n", digest="d", tags=("t",)),))
    return ledger, plan, run.workspace.out / "receipts" / "hello" / f"{plan.key}.json"


def paths_of(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the paths, as tuples of keys and indexes, of a JSON value and of all its nested values."""
    yield ()
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in entries:
        for path in paths_of(inner):
            yield (key, *path)


def changed(table: Any, path: tuple[Any, ...], change: Any) -> Any:
    """Return a copy of a JSON value in which the value at `path` is replaced with `change`, or removed."""
    if not path:
        return change
    copy = json.loads(json.dumps(table))
    *parents, last = path
    inner = copy
    for key in parents:
        inner = inner[key]
    if change is KeyError:
        del inner[last]
    else:
        inner[last] = change
    return copy


def test_receipts_with_any_changed_value_are_read_or_reported(repository: Repository, run: Run) -> None:
    ledger, plan, file = record(repository, run)
    intact = ledger.find(plan)
    assert intact is not None
    assert intact.publications[0].tags == ("t",)
    table = json.loads(file.read_text())
    for path in paths_of(table):
        for change in (KeyError, None, 5, "x", [], {}, [5], {"new": 1}, [[]]):
            if not path and change is KeyError:
                continue
            write_atomically(file, json.dumps(changed(table, path, change)))
            found, problems = ledger.find(plan), receipts.unreadable(run.workspace.out)
            assert problems == [] or (found is None and problems[0].startswith(f"{file}: not a receipt"))
            ledger.last_layers("hello")
            assert receipts.references(run.workspace.out) <= {"sha256:1", "x"}
            receipts.of_reference(run.workspace.out, "sha256:1")


def test_receipts_of_newer_versions_may_have_more_keys(repository: Repository, run: Run) -> None:
    ledger, plan, file = record(repository, run)
    intact, table = ledger.find(plan), json.loads(file.read_text())
    for path in list(paths_of(table)):
        inner = table
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict) and path[-1:] != ("inputs",):
            inner["of a newer version"] = {"any": "value"}
    write_atomically(file, json.dumps(table))
    assert ledger.find(plan) == intact
    assert receipts.unreadable(run.workspace.out) == []


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"5", b"[]", b'{"format": 2}', b"[" * 200_000, b"9" * 5000]
)
def test_damaged_receipts_are_reported(repository: Repository, run: Run, text: bytes) -> None:
    ledger, plan, file = record(repository, run)
    file.write_bytes(text)
    assert ledger.find(plan) is None
    (problem,) = receipts.unreadable(run.workspace.out, "hello")
    assert problem.startswith(f"{file}: not a receipt of format 1")
    assert len(problem) < len(str(file)) + 300
    assert file.read_bytes() == text


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "cannot be read: Is a directory"),
        (_sparse, "is larger than 64 MiB"),
    ],
)
def test_receipts_and_journals_that_no_run_can_have_written_are_reported(
    workspace: Workspace, make: Callable[[Path], None], problem: str
) -> None:
    """A named pipe would be waited for without end, and a sparse file of 1 TiB would need all memory."""
    receipt = workspace.out / "receipts" / "hello" / "0.json"
    receipt.parent.mkdir(parents=True)
    entries = workspace.folder("journal") / "20260101-000000-hello-abcdef.ndjson"
    make(receipt)
    make(entries)
    assert receipts.references(workspace.out) == frozenset()
    (found,) = receipts.unreadable(workspace.out)
    assert found.startswith(f"{receipt}: ")
    assert problem in found
    with pytest.raises(MissingError, match=f"{entries}: {problem}"):
        journal.read(workspace, entries.stem)


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "[]",
        "x",
        '{"event": "begun"}',
        json.dumps(LINE | {"event": "moved"}),
        json.dumps(LINE | {"place": 5}),
        json.dumps(LINE | {"id": None}),
        "[" * 200_000,
        "\udcff",
    ],
)
def test_clean_keeps_a_run_with_an_unreadable_journal(
    repository: Repository, workspace: Workspace, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "20260101-000000-hello-abcdef"
    path = workspace.folder("journal") / f"{name}.ndjson"
    path.write_text(f"{json.dumps(LINE)}\n{line}\n", encoding="utf-8", errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(MissingError, match="line 2"):
        journal.read(workspace, name)
    assert dead_runs(Context(repository.root)) == []
    assert f"run {name} is left alone: {path}: line 2: " in capsys.readouterr().err
    assert path.read_bytes() == before


def test_journal_of_an_ended_run_lists_the_instance_kept_after_a_failure(
    repository: Repository, workspace: Workspace
) -> None:
    name = "20260101-000000-hello-abcdef"
    path = workspace.folder("journal") / f"{name}.ndjson"
    held = LINE | {"kind": "instance", "event": "held", "id": "i-1"}
    path.write_text(f"{json.dumps(LINE)}\n{json.dumps(held)}\n")
    (entry,) = [entry for entry in journal.read(workspace, name) if entry.is_held]
    assert (entry.id, entry.kind, entry.name) == ("i-1", "instance", "n")
    (dead,) = dead_runs(Context(repository.root))
    assert (dead.run, dead.account, dead.instances) == (name, None, ("i-1",))


def test_journals_of_newer_versions_may_have_more_keys(workspace: Workspace) -> None:
    path = workspace.folder("journal") / "run.ndjson"
    lines = [LINE | {"new": [1]}, LINE | {"name": "other", "event": "kept", "id": "ami-1"}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"at": "the process was killed h')
    assert [(entry.name, entry.id) for entry in journal.read(workspace, "run")] == [
        ("n", ""),
        ("other", "ami-1"),
    ]


def test_a_full_disk_leaves_no_partial_line_in_a_journal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    journal._write(run, "begun", {key: LINE[key] for key in LINE if key not in ("at", "event")})
    path = journal.path_of(run.workspace, run.name)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            journal._write(run, "gone", {})
    assert path.read_bytes() == before
