"""tasks/areas.yml on machines with the package sources that Debian and our bootstrap write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
MIRROR = "mirror+file:/etc/apt/mirrors/debian.list"
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
VENDOR = "Packages Docker main https://vendor.example/debian bookworm $(SIGNED_BY)"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (
            [f"Packages Debian main {MIRROR} bookworm $(SIGNED_BY)", VENDOR],
            [f"deb {MIRROR} bookworm contrib", f"deb {MIRROR} bookworm non-free"],
        ),
        (
            [
                f"Packages Debian main {MIRROR} bookworm {KEY}",
                f"Translations Debian main {MIRROR} bookworm {KEY}",
                f"Packages Debian contrib {MIRROR} bookworm {KEY}",
            ],
            [f"deb [signed-by={KEY}] {MIRROR} bookworm non-free"],
        ),
        (
            [f"Packages Debian {area} {MIRROR} bookworm {KEY}" for area in ("main", "contrib", "non-free")],
            [],
        ),
    ],
)
def test_areas_that_the_machine_lacks_are_enabled_and_read(
    tmp_path: Path, listed: list[str], expected: list[str]
) -> None:
    """Debian's machine images have only main; the packages of driver and toolkit are in the other areas."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    lines = "\n".join(listed)
    program.write_text(
        f"#!/bin/sh\necho $1 >> {tmp_path}/asked\n[ $1 = update ] && exit 0\ncat << 'E'\n{lines}\nE\n"
    )
    program.chmod(0o755)
    tasks = (ANSIBLE / "tasks/areas.yml").read_text()
    file = tmp_path / "areas.list"
    (tmp_path / "areas.yml").write_text(
        tasks.replace("/etc/apt/sources.list.d/factory-areas.list", str(file))
    )
    book = tmp_path / "play.yml"
    task = {"ansible.builtin.include_tasks": str(tmp_path / "areas.yml")}
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "here,", "-c", "local", str(book)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (file.read_text().splitlines() if file.exists() else []) == expected
    assert (tmp_path / "asked").read_text().split() == ["indextargets"] + ["update"] * bool(expected)
