"""Ansible modules refuse URLs that are command-line options, and links and paths out of their folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"


def play(folder: Path, *tasks: dict[str, object], role: str = "") -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine with ansible-playbook; if `role` is set, run them as that role."""
    table: dict[str, object] = {"hosts": "localhost", "gather_facts": False}
    if role:
        path = folder / "roles" / role / "tasks" / "main.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tasks))
        table["roles"] = [role]
    else:
        table["tasks"] = tasks
    book = folder / "play.yml"
    book.write_text(json.dumps([table]))
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(folder / "roles"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    argv = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        "-i",
        "localhost,",
        "-c",
        "local",
        str(book),
    ]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "given",
    [
        {"url": "--upload-pack=touch {ran}; false", "ref": "v1"},
        {"url": "https://code.example/", "ref": "--upload-pack=touch {ran}; false", "mirrors": True},
        {"url": "ext::touch {ran}", "ref": "v1"},
    ],
    ids=["url", "ref", "protocol"],
)
def test_checkout_runs_no_command_from_a_url_or_ref(tmp_path: Path, given: dict[str, object]) -> None:
    ran, source = tmp_path / "ran", tmp_path / "source"
    subprocess.run(["git", "init", "--quiet", str(source)], check=True)
    arguments = {name: str(value).format(ran=ran) for name, value in given.items() if name != "mirrors"}
    mirrors = {"https://code.example/": f"file://{source}"} if "mirrors" in given else {}
    arguments |= {"commit": "1" * 40, "dest": str(tmp_path / "files")}
    done = play(tmp_path, {"name": "Check out", "checkout": {**arguments, "mirrors": mirrors}})
    assert done.returncode != 0
    assert "git fetch failed" in done.stdout
    assert not ran.exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("src", "link"),
        ("src", "folder/credentials"),
        ("src", "../../../secret/credentials"),
        ("src", "{secret}/credentials"),
        ("template", "../../../secret/credentials"),
    ],
)
def test_tree_reads_only_files_of_its_role(tmp_path: Path, source: str, name: str) -> None:
    secret, role = tmp_path / "secret", tmp_path / "roles" / "app"
    for folder in (secret, role / "files", role / "templates"):
        folder.mkdir(parents=True)
    (secret / "credentials").write_text("secret")
    (role / "files" / "link").symlink_to(secret / "credentials")
    (role / "files" / "folder").symlink_to(secret)
    written = tmp_path / "root"
    written.mkdir()
    entry = {"dest": "/x", source: name.format(secret=secret)}
    done = play(tmp_path, {"name": "Write", "tree": {"root": str(written), "entries": [entry]}}, role="app")
    assert done.returncode != 0
    assert "is outside" in done.stdout
    assert not (written / "x").exists()
