"""`builder run`: mounts, user, arguments, exit code and termination of the program in the container."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.factory import BOUND_S, Factory

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

PROGRAM = "; ".join(
    [
        "trap 'echo saved > /data/state; exit 3' TERM",
        'echo "user $(id -u):$(id -g), arguments $*"',
        "touch /data/seen",
        'test "$1" != wait || { echo waiting; while :; do sleep 0.1; done; }',
        "exit 7",
    ]
)


@pytest.fixture
def runnable(built: Factory) -> Factory:
    """Factory with a built target whose launch section starts a shell program."""
    path = built.repository.root / "catalog/targets/hello.toml"
    command = ["/bin/sh", "-c", PROGRAM, "program"]
    section = f'[launch]\nrunner = "none"\ncommand = {json.dumps(command)}\nmounts = {{ data = "/data" }}\n'
    path.write_text(f"{path.read_text()}\n{section}")
    return built


def test_program_gets_arguments_and_a_mounted_folder_and_sets_the_exit_code(
    runnable: Factory, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    done = runnable.call("run", "hello", "--mount", f"data={mine}", "--", "a", "--b")
    assert done.code == 7, done.stderr
    assert done.stdout == f"user {os.getuid()}:{os.getgid()}, arguments a --b\n"
    assert (mine / "seen").stat().st_uid == os.getuid()
    assert runnable.call("run", "hello").code == 7
    assert (runnable.out / "volumes/hello/data/seen").is_file()
    assert runnable.containers() == []


def test_a_signal_gives_the_program_time_to_save(runnable: Factory) -> None:
    with runnable.running("run", "hello", "--", "wait") as process:
        assert process.stdout
        assert any(line == "waiting\n" for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 130
    assert (runnable.out / "volumes/hello/data/state").read_text() == "saved\n"
    assert runnable.containers() == []
    assert runnable.scratch() == []


def test_run_refuses_wrong_options_and_a_target_without_an_image(runnable: Factory, tmp_path: Path) -> None:
    for words, code, message in (
        (["hello", "--mount", f"date={tmp_path}"], 2, "no mount 'date' (did you mean 'data'?)"),
        (["hello", "--mount", f"data={tmp_path}/none"], 2, f"no folder {tmp_path}/none"),
        (["hello", "--mount", "data"], 2, "must be NAME=FOLDER"),
        (["hello", "--processes", "0"], 2, "must be a number from 1 to 9999"),
        (["hello", "--gpus", "some"], 2, "must be a number from 1 to 9999"),
    ):
        done = runnable.call("run", *words)
        assert done.code == code, done.stderr
        assert message in done.stderr
        assert "hint: " in done.stderr
    runnable.repository.replace("containers/hello/src/hello.py", "hello", "good day")
    done = runnable.call("run", "hello")
    assert done.code == 3
    assert "target 'hello' is not built in this engine" in done.stderr
    assert "builder build hello" in done.stderr
