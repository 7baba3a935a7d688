"""The program that mounts instance-store volumes, with stand-ins for the programs that change disks."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from jinja2 import Environment

ROLE = Path(__file__).resolve().parents[2] / "ansible/roles/instance_store"
# Reads the state of the machine from files, and writes calls of programs that change disks to a file.
STANDIN = """#!/bin/sh
name=${0##*/}
case $name in
    mountpoint) grep -qx "$2" "$STATE/mounted" ;;
    systemctl) grep -qx "$2" "$STATE/units" ;;
    udevadm) ;;
    blkid)
        for last; do :; done
        case $* in
            *LABEL*) cat "$STATE/label-${last##*/}" 2>/dev/null ;;
            *) cat "$STATE/type-${last##*/}" 2>/dev/null || exit 2 ;;
        esac ;;
    *) echo "$name $*" >> "$STATE/calls" ;;
esac
"""
PROGRAMS = ("blkid", "mdadm", "mkfs.xfs", "mount", "mountpoint", "systemctl", "udevadm")


class Machine:
    """Folder with stand-ins and the rendered program; the state is in files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mount, self.docker = folder, folder / "mnt", folder / "docker"
        for name in ("bin", "state", "mnt", "docker"):
            (folder / name).mkdir()
        for name in PROGRAMS:
            (folder / "bin" / name).write_text(STANDIN)
            (folder / "bin" / name).chmod(0o755)
        for name in ("mounted", "units", "calls"):
            (folder / "state" / name).write_text("")
        (self.docker / "image").write_text("layer")

    def set(self, name: str, text: str) -> None:
        (self.folder / "state" / name).write_text(f"{text}\n" if text else "")

    def run(self, *volumes: str) -> subprocess.CompletedProcess[str]:
        environment = Environment(autoescape=False, trim_blocks=True)
        environment.filters["quote"] = shlex.quote
        template = environment.from_string((ROLE / "templates/mount-instance-store.j2").read_text())
        text = template.render(
            instance_store_mount=str(self.mount), instance_store_folders={str(self.docker): "docker.service"}
        )
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-c", text, "mount-instance-store", *volumes],
            env={"PATH": path, "STATE": str(self.folder / "state")},
            text=True,
            capture_output=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        return (self.folder / "state/calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_joins_the_volumes_and_moves_the_folders_of_installed_runtimes(machine: Machine) -> None:
    machine.set("units", "docker.service")
    done = machine.run("/dev/nvme1n1", "/dev/nvme2n1")
    assert (done.returncode, done.stderr) == (0, "")
    array = "/dev/md/instance-store"
    assert machine.calls == [
        f"mdadm --create {array} --run --level=0 --raid-devices=2 --homehost=any --name=instance-store"
        " /dev/nvme1n1 /dev/nvme2n1",
        f"mkfs.xfs -q -K -L image-store {array}",
        f"mount -o noatime {array} {machine.mount}",
        f"mount --bind {machine.mount}/.system{machine.docker} {machine.docker}",
    ]
    assert Path(f"{machine.mount}/.system{machine.docker}/image").read_text() == "layer"
    assert machine.mount.stat().st_mode & 0o7777 == 0o1777


def test_a_single_volume_needs_no_array(machine: Machine) -> None:
    assert machine.run("/dev/nvme1n1").returncode == 0
    assert machine.calls == [
        "mkfs.xfs -q -K -L image-store /dev/nvme1n1",
        f"mount -o noatime /dev/nvme1n1 {machine.mount}",
    ]


@pytest.mark.parametrize("device", ["/dev/nvme1n1", "/dev/md/instance-store"])
def test_keeps_the_file_system_after_a_reboot(machine: Machine, device: str) -> None:
    machine.set("units", "docker.service")
    machine.run("/dev/nvme1n1")
    (machine.docker / "image").write_text("newer")
    machine.set(f"label-{Path(device).name}", "image-store")
    machine.set("calls", "")
    assert machine.run("/dev/nvme1n1", "/dev/nvme2n1").returncode == 0
    assert machine.calls == [
        f"mount -o noatime {device} {machine.mount}",
        f"mount --bind {machine.mount}/.system{machine.docker} {machine.docker}",
    ]
    assert Path(f"{machine.mount}/.system{machine.docker}/image").read_text() == "layer"


def test_does_not_format_a_volume_with_other_data(machine: Machine) -> None:
    machine.set("type-nvme2n1", "LVM2_member")
    done = machine.run("/dev/nvme1n1", "/dev/nvme2n1")
    assert (done.returncode, machine.calls) == (1, [])
    assert done.stderr == "/dev/nvme2n1 has data already; it is not formatted\n"


def test_changes_nothing_without_volumes_or_if_they_are_mounted(machine: Machine) -> None:
    done = machine.run()
    assert (done.returncode, done.stdout) == (0, "this machine has no instance-store volumes\n")
    machine.set("mounted", str(machine.mount))
    assert machine.run("/dev/nvme1n1").returncode == 0
    assert machine.calls == []
