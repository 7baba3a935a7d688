"""System errors such as a full disk: messages name path and reason; exit codes match the failed step."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from builder import catalog, pipeline
from builder.adapters.host.workspace import Workspace, open_run, write_atomically
from builder.cli.main import main
from builder.errors import BuildError, CheckError, FactoryError, MissingError, PublishError, of_system
from builder.events import Stream
from builder.model import Artifact, Check, Plan, Publication, Report
from builder.screen.files import RunFiles
from tests.support.repository import Repository


class FullDisk:
    """Fake finder, maker and checker of a build; the method named `at` fails because the disk is full."""

    def __init__(self, plan: Plan, at: str) -> None:
        self._at, self._plan = at, plan
        self.records = 0

    def _write(self, call: str) -> None:
        if call == self._at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"/full/{call}")

    def find(self, _: Plan) -> None:
        return None

    def make(self, _: Plan) -> Artifact:
        self._write("make")
        return Artifact(kind="container", target="hello", reference="sha256:1", key=self._plan.key)

    def check(self, *_: object) -> Report:
        self._write("check")
        check = Check(name="a", component="b", outcome="passed", seconds=1)
        return Report(reference="sha256:1", checks=(check,), seconds=1)

    def publish(self, *_: object) -> Publication:
        self._write("publish")
        return Publication(name="n", digest="d")

    def holds(self, _: Publication) -> bool:
        return False

    def record(self, *_: object, seconds: float) -> object:
        assert seconds > 0
        self.records += 1
        self._write(f"record {self.records}")
        return object()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("make", BuildError),
        ("check", CheckError),
        ("record 1", BuildError),
        ("publish", PublishError),
        ("record 2", PublishError),
    ],
)
def test_full_disk_gives_the_exit_code_of_the_failed_step(
    repository: Repository, call: str, kind: type[FactoryError]
) -> None:
    plan = repository.plan()
    tools: Any = FullDisk(plan, call)
    parts = pipeline.Tools(
        finder=tools, maker=tools, checker=tools, publisher=tools, ledger=tools, events=Stream()
    )
    with pytest.raises(kind) as failure:
        pipeline.produce(plan, parts)
    assert failure.value.exit_code == kind.exit_code
    assert failure.value.message == f"/full/{call}: No space left on device"
    assert failure.value.hint.startswith(f"free some space: df -h /full/{call}")


def test_system_error_of_a_command_is_reported_with_path_and_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "file" / "home"))
    assert main(["clean"]) == MissingError.exit_code
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/file/home: Not a directory\nhint: ls -ld")


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a b"),
            "/a b: Permission denied",
            "ls -ld '/a b'",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "refused", "builder doctor"),
        (TimeoutError("timed out"), "timed out", "builder doctor"),
        (BrokenPipeError(), "BrokenPipeError", "builder doctor"),
        (OSError(errno.ENOSPC, "full"), "full", "free some space: df -h; builder clean"),
    ],
)
def test_message_of_a_system_error_names_its_path_if_known(error: OSError, message: str, hint: str) -> None:
    found = of_system(error, MissingError)
    assert (found.message, found.hint) == (message, hint)


def test_an_unexpected_exception_is_one_line_with_the_traceback_in_a_file(
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("https://user:secret@example.org/\nx")

    monkeypatch.setattr(catalog, "load_usable", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["list", "--root", str(repository.root)]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a defect of builder: KeyError: ")
    assert "(test_system_errors.py, line " not in line
    assert "(context.py, line " in line
    (file,) = tmp_path.glob("builder-defect-*.txt")
    assert line.endswith(f"traceback: {file}")
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "Traceback (most recent call last)" in text
    assert "secret" not in text + line
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert main(["list", "--root", str(repository.root)]) == 70
    assert "traceback cannot be written: No such file or directory" in capsys.readouterr().err


def test_write_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "receipt.json"
    path.write_text("before")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left") as failure:
            write_atomically(path, "after")
    assert of_system(failure.value, BuildError).message == f"{path}: No space left on device"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_atomic_write_syncs_the_file_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "receipt.json", []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(path, "text")
    (file, existed), folder = synced
    assert file.name.startswith(".receipt.json.")
    assert (existed, folder) == (False, (tmp_path, True))


def test_full_disk_while_logging_raises_only_one_error(tmp_path: Path) -> None:
    workspace = Workspace(home=tmp_path / "home", out=tmp_path / "out")
    with open_run(workspace, "build") as run, RunFiles(run.folder) as files:
        files._log.close()
        files._log = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 (closed by RunFiles)
        events = Stream(files)
        with pytest.raises(BuildError, match="No space left on device"):
            events.emit("note", text="text")
        events.emit("note", text="the cleanup goes on")
