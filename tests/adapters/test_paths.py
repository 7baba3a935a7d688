"""Folders whose names have spaces, quotes and other characters with a meaning in shells and settings."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.ami.checker import ssh_config
from builder.adapters.ansible import controller, runtime
from builder.adapters.aws.sshkeys import HostKey
from builder.adapters.host.workspace import Run, Workspace, open_run

NAMES = ["with space", "it's", 'a "b"', "100%h", "`id`", "a\\b", "a;b&c"]


@pytest.fixture(params=NAMES)
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / str(request.param)
    path.mkdir()
    return path


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    with open_run(Workspace(home=folder / "home", out=folder / "out"), "test") as opened:
        yield opened


def test_ansible_starts_in_any_folder(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = folder / "runtime/ansible/cli"
    fake.mkdir(parents=True)
    for package in (fake, fake.parent):
        (package / "__init__.py").touch()
    (fake / "playbook.py").write_text("import sys\ndef main(): print(sys.argv[1:])\n")
    (folder / "ansible").mkdir()
    monkeypatch.setattr(runtime, "folder_of", lambda *_, **__: folder / "runtime")
    program = controller.make_program(run, folder, folder)
    done = subprocess.run([str(program), "a b", "'"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("['a b', \"'\"]\n", "")


def test_ssh_reads_paths_with_special_characters(folder: Path) -> None:
    host = HostKey(user_data="", known_hosts=folder / "known_hosts", alias="image")
    text = ssh_config(user="admin", port=22, key=folder / "key", host=host, sockets=folder)
    config = folder / "ssh_config"
    config.write_text(text)
    argv = ["ssh", "-G", "-F", str(config), "127.0.0.1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert found["userknownhostsfile"].replace("%%", "%") == str(folder / "known_hosts")
    assert found["identityfile"].replace("%%", "%") == str(folder / "key")
    assert found["controlpath"].startswith(str(folder))
