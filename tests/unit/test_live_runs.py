"""Cleaning keeps the folders of live runs of this and other hosts, even after a clock change."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from builder.adapters.host.workspace import (
    Workspace,
    dead_runs,
    foreign_runs,
    is_running,
    live_runs,
    locked,
    open_run,
    without_runs,
)

NAME = os.uname().nodename
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
BOUND_S = 30


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(home=tmp_path / "home", out=tmp_path / "out")


def leave(workspace: Workspace, name: str, alive: str | None) -> Path:
    """Create the scratch folder of a run with the text `alive` in its alive file, or without the file."""
    folder = workspace.folder("scratch", name)
    if alive is not None:
        (folder / "alive").write_text(alive)
    return folder


@pytest.mark.parametrize(
    ("alive", "is_dead"),
    [
        (f"{NAME}\n{BOOT}", True),
        (f"{NAME}\nboot-before", True),
        (f"container\n{BOOT}", True),
        ("other-host\nother-boot", False),
        ("", True),
    ],
    ids=["killed", "restarted", "other container", "other host", "older version"],
)
def test_runs_of_other_hosts_count_as_running_and_ended_runs_as_dead(
    workspace: Workspace, alive: str, *, is_dead: bool
) -> None:
    leave(workspace, "run", alive)
    assert dead_runs(workspace) == (["run"] if is_dead else [])
    assert is_running(workspace, "run") is not is_dead
    assert foreign_runs(workspace) == ({} if is_dead else {"run": "other-host"})
    with without_runs(workspace) as is_idle:
        assert is_idle is is_dead


def test_the_alive_file_of_a_run_names_its_host(workspace: Workspace) -> None:
    with open_run(workspace, "build") as run:
        assert (run.scratch / "alive").read_text() == f"{NAME}\n{BOOT}"
        assert live_runs(workspace) == [run.name]
        assert foreign_runs(workspace) == {}


@pytest.mark.parametrize("offset_s", [-3600, 3600], ids=["in the past", "in the future"])
def test_run_folder_without_alive_file_is_dead_if_its_time_is_old_or_in_the_future(
    workspace: Workspace, offset_s: int
) -> None:
    folder = leave(workspace, "run", None)
    assert dead_runs(workspace) == [], "a new folder may belong to a run that is starting"
    moment = time.time() + offset_s
    os.utime(folder, (moment, moment))
    assert dead_runs(workspace) == ["run"]


HOLDER = """
import os, sys
from pathlib import Path
from builder.adapters.host.workspace import Workspace, locked, open_run
workspace = Workspace(home=Path(sys.argv[1]), out=Path(sys.argv[2]))
with open_run(workspace, "build") as run, locked(workspace, "layer-1"):
    print(run.name, flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_releases_its_run_and_its_locks(workspace: Workspace) -> None:
    argv = [sys.executable, "-c", HOLDER, str(workspace.home), str(workspace.out)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        name = holder.stdout.readline().strip()
        assert live_runs(workspace) == [name]
        holder.kill()
        holder.wait(BOUND_S)
        assert dead_runs(workspace) == [name]
        with locked(workspace, "layer-1") as waited:
            assert not waited


def test_no_run_begins_while_shared_folders_are_removed(workspace: Workspace) -> None:
    begun = threading.Event()

    def begin() -> None:
        with open_run(workspace, "build"):
            begun.set()

    thread = threading.Thread(target=begin)
    with without_runs(workspace) as is_idle:
        assert is_idle
        thread.start()
        assert not begun.wait(0.5)
    assert begun.wait(BOUND_S)
    thread.join(BOUND_S)
    with open_run(workspace, "one"), open_run(workspace, "two"), without_runs(workspace) as is_idle:
        assert not is_idle
