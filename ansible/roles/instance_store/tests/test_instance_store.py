"""Checks of the service that mounts the instance-store volumes."""

import pytest
from checks.exporters import is_enabled, problems

PROGRAM = "/usr/local/sbin/mount-instance-store"
UNIT = "instance-store.service"
VOLUMES = "ls /dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_*"


@pytest.fixture
def has_volumes(host):
    return host.run(VOLUMES).rc == 0


def test_only_root_can_write_the_program(host):
    program = host.file(PROGRAM)
    assert (program.user, program.mode) == ("root", 0o755)


def test_programs_for_arrays_and_file_systems_are_installed(host):
    for program in ("blkid", "mdadm", "mkfs.xfs", "mountpoint", "udevadm"):
        assert host.exists(program), program


@pytest.mark.needs("has_systemd")
def test_unit_is_valid_and_enabled(host):
    assert is_enabled(host, UNIT) == "enabled"
    assert problems(host, UNIT) == ""


@pytest.mark.needs("has_systemd")
def test_container_runtimes_start_after_the_mount(host, expected):
    before = host.check_output("systemctl show --property Before --value %s", UNIT).split()
    variables = expected.variables
    assert {*variables["instance_store_before"], *variables["instance_store_folders"].values()} <= set(before)


@pytest.mark.needs("has_systemd")
def test_machine_without_volumes_is_unchanged(host, expected, has_volumes):
    if not has_volumes:
        assert "no instance-store volumes" in host.check_output(PROGRAM)
        assert not host.mount_point(expected.variables["instance_store_mount"]).exists


@pytest.mark.needs("kernel")
def test_volumes_are_mounted(host, expected, has_volumes):
    if has_volumes:
        point = host.mount_point(expected.variables["instance_store_mount"])
        assert (point.exists, point.filesystem) == (True, "xfs")
        for folder, unit in expected.variables["instance_store_folders"].items():
            has_unit = host.run("systemctl cat %s", unit).rc == 0
            assert host.mount_point(folder).exists == has_unit, folder
