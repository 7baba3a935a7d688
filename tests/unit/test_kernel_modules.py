"""Kernel module archives from build machines: refused file names, caching, and damaged archives."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder.adapters.ansible import kernel_modules
from builder.adapters.host.workspace import Run, Workspace, open_run

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
ARCHIVE = "nvidia-1.0-6.1.0-1-amd64-x86_64-0123456789abcdef.dkms.tar.gz"
Answers = tuple[dict[str, object], dict[str, object]]  # dkms results: in check mode, in the build
# Fake Ansible module `dkms` of a hostile machine; it returns the answers for the name of a kernel module.
MACHINE = """
from ansible.module_utils.basic import AnsibleModule
names = ("name", "version", "kernel", "archives")
module = AnsibleModule({{name: {{"type": "str"}} for name in names}}, supports_check_mode=True)
asked, made = {answers!r}[module.params["name"]]
module.exit_json(**(asked if module.check_mode else made))
"""


def play(folder: Path, answers: Mapping[str, Answers]) -> dict[str, str]:
    """Run tasks/kernel_module.yml on fake machines with these answers; return the output of each machine."""
    for name in ("library", "cached", *(f"{kind}/{host}" for kind in ("made", "work") for host in answers)):
        (folder / name).mkdir(parents=True)
    (folder / "library/dkms.py").write_text(MACHINE.format(answers=dict(answers)))
    (folder / "cached" / ARCHIVE).write_text("cached")
    variables = {
        "module_name": "{{ inventory_hostname }}",
        "module_version": "1.0",
        "target_kernel": "6.1.0-1-amd64",
        "work_folder": f"{folder}/work/{{{{ inventory_hostname }}}}",
        "factory_module_cache": str(folder / "cached"),
        "factory_made_modules": f"{folder}/made/{{{{ inventory_hostname }}}}",
    }
    tasks = [{"ansible.builtin.include_tasks": str(ANSIBLE / "tasks/kernel_module.yml")}]
    book = folder / "play.yml"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "vars": variables, "tasks": tasks}]))
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_LIBRARY": str(folder / "library"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
    }
    program = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(program), "-i", f"{','.join(answers)},", "-c", "local", str(book)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
    blocks = re.split(r"^(\w+) \| ", done.stdout, flags=re.MULTILINE)[1:]
    found = dict.fromkeys(answers, "")
    for host, text in zip(blocks[::2], blocks[1::2], strict=True):
        found[host] += text
    return found


def test_machine_cannot_fetch_other_files_of_the_controller(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("credentials", "x.dkms.tar.gz"):
        (secret / name).write_text("secret")
    names: list[object] = [
        "../secret/credentials",
        "../secret/x.dkms.tar.gz",
        f"{secret}/credentials",
        f"{ARCHIVE}\n",
        ".dkms.tar.gz",
        [ARCHIVE],
        {"a": 1},
        None,
    ]
    answers: dict[str, Answers] = {
        f"m{i}": ({"archive": name, "outcome": "needed"}, {"archive": name, "outcome": "compiled"})
        for i, name in enumerate(names)
    }
    for output in play(tmp_path, answers).values():
        assert "FAILED!" in output
        assert "The machine returned the archive name" in output
    assert [path for path in (tmp_path / "work").rglob("*") if path.is_file()] == []


def test_machine_cannot_choose_the_file_that_the_controller_writes(tmp_path: Path) -> None:
    evil: dict[str, object] = {"archive": "../evil.dkms.tar.gz", "outcome": "compiled"}
    compiled: dict[str, object] = {"archive": ARCHIVE, "outcome": "compiled"}
    found = play(
        tmp_path,
        {
            "needed": ({"archive": ARCHIVE, "outcome": "needed"}, evil),
            "none": ({"archive": ARCHIVE, "outcome": "none"}, evil),
            "honest": ({"archive": ARCHIVE, "outcome": "needed"}, compiled),
        },
    )
    for name in ("needed", "none"):
        assert "The machine returned another archive name" in found[name]
    assert "FAILED" not in found["honest"]
    made = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert made == [tmp_path / "made" / "honest" / ARCHIVE]
    assert [path.name for path in (tmp_path / "cached").iterdir()] == [ARCHIVE]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as opened:
        yield opened


def build(run: Run, name: str, files: dict[str, str]) -> tuple[list[str], Path]:
    """Prepare a build and write `files`; return cached archive names plus notes, and the build's folder."""
    folder = run.scratch / name
    notes: list[str] = []
    kernel_modules.prepare(run, folder, cache="modules", note=notes.append)
    for file, text in files.items():
        (kernel_modules.made(folder) / file).write_text(text)
    names = sorted(path.name for path in kernel_modules.cached(folder).iterdir())
    return names + notes, folder


def test_a_kernel_module_archive_is_cached_only_after_a_call_of_keep(run: Run) -> None:
    _, folder = build(run, "first", {ARCHIVE: "modules"})
    assert build(run, "second", {})[0] == []
    kernel_modules.keep(run, folder, cache="modules")
    assert build(run, "third", {})[0] == [ARCHIVE]
    assert build(run, "role", {})[0] == [ARCHIVE]


@pytest.mark.parametrize("suffix", ["", ".sha256"])
def test_damaged_archive_or_digest_in_the_cache_leads_to_a_new_build(run: Run, suffix: str) -> None:
    _, folder = build(run, "first", {ARCHIVE: "modules"})
    kernel_modules.keep(run, folder, cache="modules")
    path = run.workspace.cache("modules") / f"{ARCHIVE}{suffix}"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(bytes(content))
    (note,), again = build(run, "second", {ARCHIVE: "modules"})
    assert "differs from its recorded sha256" in note
    assert list(run.workspace.cache("modules").iterdir()) == []
    kernel_modules.keep(run, again, cache="modules")
    assert build(run, "third", {})[0] == [ARCHIVE]


def test_archive_without_a_digest_is_not_used(run: Run) -> None:
    (run.workspace.cache("modules") / ARCHIVE).write_text("from an older version")
    assert "differs from its recorded sha256" in build(run, "first", {})[0][0]


def test_only_kernel_module_archives_are_cached(run: Run, tmp_path: Path) -> None:
    _, folder = build(run, "first", {"authorized_keys": "x", ".x.dkms.tar.gz": "x", "a.tar.gz": "x"})
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (kernel_modules.made(folder) / ARCHIVE).symlink_to(secret)
    (kernel_modules.made(folder) / "folder.dkms.tar.gz").mkdir()
    kernel_modules.keep(run, folder, cache="modules")
    assert list(run.workspace.cache("modules").iterdir()) == []
