"""Private folders and files of the builder: other users of the machine can neither read nor replace them."""

import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.host import private
from builder.adapters.host.workspace import Workspace, find_workspace, forget_run, locked, open_run
from builder.cli.main import main
from builder.errors import MissingError
from tests.support.rehearsal import ROOT

STRANGER = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def give_away(path: Path) -> None:
    """Make another user the owner of a path."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    os.chown(path, STRANGER, STRANGER)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace /tmp by an empty folder in which every user can create files."""
    folder = tmp_path / "tmp"
    folder.mkdir(mode=0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def common_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(home=tmp_path / "home", out=tmp_path / "out")


def test_socket_folder_is_never_a_folder_that_another_user_prepared(
    workspace: Workspace, temporary: Path
) -> None:
    with open_run(workspace, "build") as run:
        trap = temporary / f"factory-{hashlib.sha256(run.name.encode()).hexdigest()[:12]}"
        trap.mkdir()
        trap.chmod(0o777)
        folder = run.socket_dir
        assert folder != trap
        assert (mode(folder), folder.stat().st_uid) == (0o700, os.geteuid())
        assert run.socket_dir == folder, "each run has a single socket folder"
    assert list(temporary.iterdir()) == [trap]


def test_refuses_a_socket_folder_that_was_replaced(workspace: Workspace, temporary: Path) -> None:
    with open_run(workspace, "build") as run:
        folder = run.socket_dir
        folder.rmdir()
        folder.mkdir()
        with pytest.raises(MissingError, match="was replaced"):
            _ = run.socket_dir
        folder.rmdir()
        folder.symlink_to(temporary)
        with pytest.raises(MissingError, match="was replaced"):
            _ = run.socket_dir
        folder.unlink()
        folder.mkdir(mode=0o700)
        give_away(folder)
        with pytest.raises(MissingError, match="was replaced"):
            _ = run.socket_dir
    assert folder.exists(), "the cleanup deletes no folder of another user"


def test_removes_the_socket_folder_of_a_dead_run(workspace: Workspace, temporary: Path) -> None:
    with open_run(workspace, "build") as run:
        run.keep_scratch.set()
        (run.socket_dir / "control").touch()
    forget_run(workspace, run.name)
    assert list(temporary.iterdir()) == []
    assert not run.scratch.exists()


@pytest.mark.parametrize("use", ["lock", "cache", "run"])
def test_no_other_user_can_enter_builder_home(workspace: Workspace, use: str) -> None:
    workspace.home.mkdir(mode=0o755)  # as earlier versions made it
    if use == "lock":
        with locked(workspace, "name"):
            pass
    elif use == "cache":
        workspace.cache("blobs")
    else:
        with open_run(workspace, "build") as run:
            assert mode(run.scratch) == 0o700
    assert mode(workspace.home) == 0o700


def test_refuses_a_builder_home_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    give_away(home)
    monkeypatch.setenv("BUILDER_HOME", str(home))
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert main(["clean"]) == MissingError.exit_code
    assert f"{home} belongs to another user (uid {STRANGER})" in capsys.readouterr().err
    link = tmp_path / "link"
    link.symlink_to(home)
    monkeypatch.setenv("BUILDER_HOME", str(link))
    with pytest.raises(MissingError):
        find_workspace(tmp_path)
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    assert find_workspace(tmp_path).home == link


def test_files_are_made_private_even_if_they_existed(tmp_path: Path) -> None:
    path, victim = tmp_path / "secret", tmp_path / "victim"
    path.write_text("a longer text")
    private.write(path, "secret")
    assert (path.read_text(), mode(path)) == ("secret", 0o600)
    victim.touch()
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(OSError, match="link"):
        private.write(tmp_path / "link", "secret")
    assert victim.read_text() == ""


# In a mount namespace, kills mmdebstrap while file systems are mounted in its root, and then cleans up.
KILLED = """
import os, sys
from pathlib import Path
from builder.adapters.container import bootstrap
from builder.adapters.host.workspace import Workspace, forget_run, open_run
from builder.adapters.upstream.mirror import Mirror
from builder.catalog import load
from builder.errors import BuildError
from tests.support.rehearsal import ROOT

workspace = Workspace(home=Path("home").resolve(), out=Path("out").resolve())
with open_run(workspace, "build") as run:
    run.keep_scratch.set()
    system = load(ROOT).systems["debian-12"]
    try:
        bootstrap.make_root(run, system, Mirror(), say=print)
    except BuildError as error:
        print(error.message)
folder = os.environ["TMPDIR"] + "/factory-"  # other builds of this machine may have mounts too
mounts = [line.split()[4] for line in open("/proc/self/mountinfo") if folder in line]
assert len(mounts) == 3, mounts
assert Path(mounts[0], "passwd").exists()
forget_run(workspace, run.name)
assert folder not in open("/proc/self/mountinfo").read()
"""
MMDEBSTRAP = """#!/bin/sh
set -e
root=$(mktemp -d "$TMPDIR/mmdebstrap.XXXXXXXXXX")
mkdir "$root/dev" "$root/a b" "$root/sys"
mount --bind "$PRECIOUS" "$root/dev"
mount --rbind "$PRECIOUS" "$root/a b"
mount -t tmpfs none "$root/dev/below"
ln -s "$PRECIOUS" "$root/link"
kill -KILL $$
"""


@pytest.fixture
def unshared() -> list[str]:
    """The words before a command that run it as root of a user namespace, with its own mounts."""
    words = ["unshare", "--map-root-user", "--mount", "--propagation", "private"]
    done = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"capability absent: user namespaces: {done.stderr.strip()}")
    return words


def test_a_killed_bootstrap_leaves_no_mounts_and_its_cleanup_deletes_nothing_mounted(
    tmp_path: Path, temporary: Path, unshared: list[str]
) -> None:
    precious, programs = tmp_path / "precious", tmp_path / "bin"
    (precious / "below").mkdir(parents=True)
    (precious / "passwd").write_text("precious")
    programs.mkdir()
    (programs / "mmdebstrap").write_text(MMDEBSTRAP)
    (programs / "mmdebstrap").chmod(0o755)
    done = subprocess.run(
        [*unshared, sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PRECIOUS": str(precious),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(temporary.iterdir()) == []
    assert sorted(path.name for path in precious.iterdir()) == ["below", "passwd"]
