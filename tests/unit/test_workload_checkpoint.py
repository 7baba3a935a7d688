"""Checkpoints of the training programs: selection, damage, pruning and crashes while writing."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))

from training import array_files, checkpoint
from training.checkpoint import Checkpoint, Progress
from training.errors import StorageError, TrainingError

IDENTITY: dict[str, str | int] = {"program": "test", "width": 8}


class CrashError(Exception):
    """Raised to simulate that the process is killed."""


def write(root: Path, step: int, content: str = "weights") -> Checkpoint:
    partial = checkpoint.partial_folder(root, step)
    partial.mkdir()
    (partial / "part-0").write_text(content)
    (partial / ".metadata").write_text("index")
    return checkpoint.commit(partial, Progress(step=step, first_loss=2.0, last_loss=1.0), IDENTITY)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_missing_or_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.find_latest(tmp_path / "missing") is None
    assert checkpoint.find_latest(tmp_path) is None


def test_completely_written_checkpoint_is_found_unchanged(tmp_path):
    written = write(tmp_path, 40)
    assert checkpoint.find_latest(tmp_path) == written
    assert written.folder == tmp_path / "step-00000040"
    assert written.progress == Progress(step=40, first_loss=2.0, last_loss=1.0)


def test_latest_checkpoint_is_chosen_by_number_not_by_name(tmp_path):
    write(tmp_path, 99_999_999)
    write(tmp_path, 100_000_000)
    assert checkpoint.find_latest(tmp_path).progress.step == 100_000_000


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "checkpoint.json").unlink(), "checkpoint.json is missing"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "checkpoint.json is invalid"),
        (lambda folder: (folder / "checkpoint.json").write_text("[]"), "checkpoint.json is invalid"),
        (lambda folder: (folder / "part-0").unlink(), "part-0 has no bytes instead of 7"),
        (lambda folder: (folder / "part-0").write_text("we"), "part-0 has 2 bytes instead of 7"),
        (lambda folder: (folder / ".metadata").unlink(), ".metadata has no bytes"),
    ],
)
def test_damaged_checkpoint_is_skipped_with_a_reason(tmp_path, damage, reason):
    write(tmp_path, 20)
    damage(write(tmp_path, 40).folder)
    messages: list[str] = []
    assert checkpoint.find_latest(tmp_path, report=messages.append).progress.step == 20
    assert len(messages) == 1
    assert messages[0].startswith("step-00000040 is skipped")
    assert reason in messages[0]


def test_new_checkpoint_replaces_a_damaged_checkpoint_of_the_same_step(tmp_path):
    (write(tmp_path, 40).folder / "part-0").unlink()
    write(tmp_path, 40, content="new weights")
    assert names(tmp_path) == ["step-00000040"]
    assert (tmp_path / "step-00000040" / "part-0").read_text() == "new weights"


def test_prune_keeps_the_newest_checkpoints(tmp_path):
    for step in (10, 20, 30, 40):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2)
    assert names(tmp_path) == ["step-00000030", "step-00000040"]


def test_unrelated_files_are_ignored_and_kept(tmp_path):
    (tmp_path / "step-latest").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, 10)
    checkpoint.prune(tmp_path, keep=1)
    checkpoint.clear_partial(tmp_path)
    assert names(tmp_path) == ["notes.txt", "step-00000010", "step-latest"]


def test_checkpoint_of_another_model_is_refused(tmp_path):
    written = write(tmp_path, 10)
    checkpoint.check_identity(written, dict(IDENTITY))
    with pytest.raises(TrainingError, match="width 8, but this run has 16; use another --checkpoint-dir"):
        checkpoint.check_identity(written, {**IDENTITY, "width": 16})
    with pytest.raises(TrainingError, match="depth None, but this run has 2"):
        checkpoint.check_identity(written, {**IDENTITY, "depth": 2})


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raise CrashError before file system change `number`, or in the middle of it if it is a removal."""
    left = [number]
    originals = {"fsync": os.fsync, "rename": Path.rename, "rmtree": shutil.rmtree}

    def dying(name: str, *arguments: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            if name == "rmtree":
                next(path for path in Path(str(arguments[0])).rglob("*") if path.is_file()).unlink()
            raise CrashError(name)
        return originals[name](*arguments)

    monkeypatch.setattr(os, "fsync", lambda handle: dying("fsync", handle))
    monkeypatch.setattr(Path, "rename", lambda path, target: dying("rename", path, target))
    monkeypatch.setattr(shutil, "rmtree", lambda path: dying("rmtree", path))


def changes_survived(root: Path, number: int) -> bool:
    """Replace a damaged checkpoint of step 30 and prune; return False if change `number` crashed."""
    write(root, 10)
    write(root, 20)
    (write(root, 30).folder / "part-0").unlink()
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, number)
        try:
            write(root, 30, content="new weights")
            checkpoint.prune(root, keep=1)
        except CrashError:
            return False
    return True


def test_crash_at_any_change_leaves_a_complete_checkpoint_and_no_temporary_files(tmp_path):
    survived = False
    number = 0
    while not survived:
        number += 1
        root = tmp_path / str(number)
        root.mkdir()
        survived = changes_survived(root, number)
        found = checkpoint.find_latest(root)
        assert found.progress.step in {20, 30}
        assert (found.folder / "part-0").read_text() in {"weights", "new weights"}
        # Remove temporary files, write a checkpoint and prune, as the next start of the program does.
        checkpoint.clear_partial(root)
        if found.progress.step == 20:
            write(root, 30, content="new weights")
        checkpoint.prune(root, keep=1)
        assert names(root) == ["step-00000030"]
        assert json.loads((root / "step-00000030" / "checkpoint.json").read_text())["progress"]["step"] == 30
    assert number > 8


@pytest.mark.parametrize("array", [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, dtype=np.int32)])
def test_array_of_a_checkpoint_is_read_as_written(tmp_path, array):
    array_files.write(tmp_path / "leaf.npy", array)
    found = array_files.read(tmp_path / "leaf.npy", array.shape, array.dtype)
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


def test_array_of_another_shape_or_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "leaf.npy"
    array_files.write(path, np.zeros(4, dtype=np.float32))
    with pytest.raises(StorageError, match=r"leaf\.npy: has float32\[4\], expected float32\[2, 2\]"):
        array_files.read(path, (2, 2), np.dtype(np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"leaf\.npy"):
        array_files.read(path, (4,), np.dtype(np.float32))
    path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"leaf\.npy"):
        array_files.read(path, (4,), np.dtype(np.float32))
