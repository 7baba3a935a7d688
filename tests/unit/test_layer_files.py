"""Files and times in a layer do not depend on the time of the build."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from builder.adapters.ansible import layer_files

EPOCH = 1_700_000_000
OLD = 1_600_000_000


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A root file system with an old and a new file, and files of a package manager."""
    root = tmp_path / "root"
    for name in (
        "etc/passwd-",
        "etc/passwd",
        "var/log/dpkg.log",
        "var/log/apt/term.log",
        "usr/bin/tool",
        "usr/old",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "usr/link").symlink_to("bin/tool")
    os.utime(root / "usr/old", (OLD, OLD))
    return root


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def test_clamps_times_and_removes_transient_files(files: Path) -> None:
    left = layer_files.clamp(0, EPOCH, str(files))
    assert names(files) == ["etc/passwd", "usr/bin/tool", "usr/link", "usr/old"]
    assert left == {str(path) for path in files.rglob("*")}
    times = {str(path.relative_to(files)): path.lstat().st_mtime for path in files.rglob("*")}
    assert times.pop("usr/old") == OLD
    assert set(times.values()) == {EPOCH}


def test_keeps_files_of_lower_layers_as_they_are(files: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in files.rglob("*")}
    layer_files.clamp(max(path.lstat().st_ctime for path in before) + 1, EPOCH, str(files))
    assert {path: path.lstat().st_mtime_ns for path in files.rglob("*")} == before


def packed(files: Path, change: str, tmp_path: Path) -> dict[str, tarfile.TarInfo]:
    """Run shell code in the root file system; return the tar members of the resulting layer."""
    listing, output = tmp_path / "parent.json", tmp_path / "layer.tar"
    layer_files.list_files(str(listing), str(files))
    subprocess.run(["sh", "-euc", change], cwd=files, check=True)
    layer_files.pack(str(listing), EPOCH, str(output), str(files))
    with tarfile.open(output) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_layer_has_changed_files_with_parent_folders_and_whiteouts(files: Path, tmp_path: Path) -> None:
    change = """
        echo more >> usr/bin/tool; ln usr/bin/tool usr/bin/same; ln -s tool usr/bin/alias; chmod 700 etc
        echo x > var/log/dpkg.log; rm -r var/log/apt usr/old; mkdir opt; touch .dockerenv
    """
    found = packed(files, change, tmp_path)
    assert list(found) == [
        *("etc", "opt", "usr", "usr/bin", "usr/bin/alias", "usr/bin/same", "usr/bin/tool", "usr/.wh.old"),
        *("var", "var/log", "var/log/.wh.apt", "var/log/.wh.dpkg.log"),
    ]
    assert found["usr/bin/tool"].linkname == "usr/bin/same"
    assert found["usr/bin/alias"].linkname == "tool"
    assert found["etc"].mode == 0o700
    assert {member.mtime for member in found.values()} == {EPOCH, 0}
    assert {member.uname for member in found.values()} == {""}
    assert not [name for name, member in found.items() if ".wh." in name and (member.mtime or member.size)]


def test_a_layer_without_changes_has_no_files(files: Path, tmp_path: Path) -> None:
    assert packed(files, "touch etc", tmp_path) == {}


def test_two_builds_give_the_same_bytes(files: Path, tmp_path: Path) -> None:
    change = "mkdir opt; echo 1 > opt/new; rm usr/old"
    (tmp_path / "one").mkdir()
    packed(files, change, tmp_path / "one")
    subprocess.run(["sh", "-euc", "rm -r opt; echo usr/old > usr/old"], cwd=files, check=True)
    packed(files, change, tmp_path)
    assert (tmp_path / "one/layer.tar").read_bytes() == (tmp_path / "layer.tar").read_bytes()


def play(files: Path, program: str, *words: str) -> int | str | None:
    """Run a Python program in place of a play in the root file system; return its exit code."""
    launcher = files.parent / "launch.py"
    launcher.write_text(f"import pathlib, sys; root = pathlib.Path({str(files)!r}); {program}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(launcher), *words])
        with pytest.raises(SystemExit) as end:
            layer_files.play(EPOCH, str(launcher), str(files))
    return end.value.code


def test_a_play_reports_deleted_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A transient file is reported as deleted only if the parent image has the file."""
    (files / "var/log/dpkg.log").unlink()
    logs = "[(root / 'var/log' / name).write_text('new') for name in ('dpkg.log', 'apt/term.log')]"
    assert not play(files, f"(root / 'usr/old').unlink(); {logs}")
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "deleted"
    assert event["paths"] == [f"{files}/{name}" for name in ("usr/old", "var/log/apt/term.log")]
    assert not (files / "var/log/dpkg.log").exists()


def test_a_failed_play_changes_no_file_and_keeps_its_exit_code(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.lstat().st_mtime_ns for path in files.rglob("*")}
    assert play(files, "print(sys.argv[1:]); sys.exit(3)", "a", "b") == 3
    assert capsys.readouterr().out == "['a', 'b']\n"
    assert {path: path.lstat().st_mtime_ns for path in files.rglob("*")} == before


@pytest.mark.parametrize(("end", "code"), [("3", 3), ("None", 0), ("'no such role'", 1)])
def test_the_process_ends_with_the_exit_code_and_output_of_the_play(
    end: str, code: int, tmp_path: Path
) -> None:
    launcher = tmp_path / "launch.py"
    launcher.write_text(f"import sys; print(sys.argv[1:]); sys.exit({end})\n")
    program = f"""
import sys; sys.path.insert(0, {str(Path(layer_files.__file__).parent)!r}); import layer_files
layer_files.entries = lambda root: ()
layer_files.run("play", "{EPOCH}", {str(launcher)!r}, "a", "b")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr == ("no such role\n" if code == 1 else "")
    assert done.stdout.startswith("['a', 'b']\n")
