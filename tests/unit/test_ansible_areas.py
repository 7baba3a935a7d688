"""tasks/areas.yml enables contrib and non-free for the apt sources of Debian and of the bootstrap."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
MIRROR = "mirror+file:/etc/apt/mirrors/debian.list"
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = "/etc/apt/sources.list:1 Packages"
AREAS = ("contrib", "non-free", "non-free-firmware")
VENDOR = f"{SOURCES} Docker main https://vendor.example/debian bookworm $(SIGNED_BY)"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (
            [f"{SOURCES} Debian main {MIRROR} bookworm $(SIGNED_BY)", VENDOR],
            [f"deb {MIRROR} bookworm {area}" for area in AREAS],
        ),
        (
            [
                f"{SOURCES} Debian main {MIRROR} bookworm {KEY}",
                f"/etc/apt/sources.list:1 Translations Debian main {MIRROR} bookworm {KEY}",
                f"{SOURCES} Debian contrib {MIRROR} bookworm {KEY}",
            ],
            [f"deb [signed-by={KEY}] {MIRROR} bookworm {area}" for area in AREAS[1:]],
        ),
        (
            [f"{SOURCES} Debian {area} {MIRROR} bookworm {KEY}" for area in ("main", *AREAS)],
            [],
        ),
    ],
)
def test_missing_archive_areas_are_enabled_and_their_package_lists_fetched(
    tmp_path: Path, listed: list[str], expected: list[str]
) -> None:
    """Debian's machine images enable only main; the NVIDIA packages are in contrib and non-free."""
    assert (asked_by(tmp_path, listed), lines_in(tmp_path)) == (
        ["indextargets"] + ["update"] * bool(expected),
        expected,
    )


def test_archive_areas_stay_enabled_if_an_area_has_no_packages(tmp_path: Path) -> None:
    """apt lists contrib from the file that the task writes, but not the empty area non-free."""
    main = f"{SOURCES} Debian main {MIRROR} trixie $(SIGNED_BY)"
    asked_by(tmp_path, [main])
    before = lines_in(tmp_path)
    contrib = f"{tmp_path}/areas.list:1 Packages Debian contrib {MIRROR} trixie $(SIGNED_BY)"
    assert asked_by(tmp_path, [main, contrib]) == ["indextargets"]
    assert asked_by(tmp_path, [main]) == ["indextargets", "update"]
    assert lines_in(tmp_path) == before == [f"deb {MIRROR} trixie {area}" for area in AREAS]


def lines_in(folder: Path) -> list[str]:
    file = folder / "areas.list"
    return file.read_text().splitlines() if file.exists() else []


def asked_by(folder: Path, listed: list[str]) -> list[str]:
    """Run the tasks with a fake apt-get that prints `listed`; return the commands that apt-get received."""
    program = folder / "bin" / "apt-get"
    program.parent.mkdir(exist_ok=True)
    asked = folder / "asked"
    asked.write_text("")
    lines = "\n".join(listed)
    program.write_text(f"#!/bin/sh\necho $1 >> {asked}\n[ $1 = update ] && exit 0\ncat << 'E'\n{lines}\nE\n")
    program.chmod(0o755)
    tasks = (ANSIBLE / "tasks/areas.yml").read_text()
    (folder / "areas.yml").write_text(
        tasks.replace("/etc/apt/sources.list.d/factory-areas.list", str(folder / "areas.list"))
    )
    book = folder / "play.yml"
    task = {"ansible.builtin.include_tasks": str(folder / "areas.yml")}
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "here,", "-c", "local", str(book)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return asked.read_text().split()
