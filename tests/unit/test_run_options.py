"""Options of `builder run`."""

import subprocess
from pathlib import Path

import pytest

from builder.adapters.host.workspace import Workspace
from builder.app.program_options import folders_by_mount
from builder.app.running import folders_of
from builder.cli.run import options
from builder.errors import UsageError
from builder.model import Launch


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mount", "data=~no-such-user/data"], "'~no-such-user/data': no such user"),
        (["--mount", "data\n"], r"argument --mount: has a control character: 'data\n'"),
        (["--mount", "data"], "must be NAME=FOLDER, not 'data'"),
        (["--processes", "\u0664"], "must be a number from 1 to 9999"),
        (["--gpus", "0"], "must be a number from 1 to 9999"),
    ],
)
def test_invalid_values_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        options().parse_args(["hello", *words])
    assert message in caught.value.message


def test_a_mount_is_given_once() -> None:
    assert folders_by_mount([("a", 1), ("b", 1)]) == {"a": 1, "b": 1}
    with pytest.raises(UsageError, match="--mount a is given 2 times"):
        folders_by_mount([("a", 1), ("b", 1), ("a", 2)])


def test_hint_for_a_missing_folder_is_a_command_for_a_shell(tmp_path: Path) -> None:
    launch = Launch(runner="none", command=("true",), mounts={"data": "/data"})
    workspace = Workspace(home=tmp_path / "home", out=tmp_path / "out")
    with pytest.raises(UsageError) as caught:
        folders_of(launch, workspace, "hello", {"data": tmp_path / "it's here"})
    subprocess.run(["sh", "-c", caught.value.hint], check=True, timeout=20)
    assert (tmp_path / "it's here").is_dir()
