"""enroot: the pinned release, what it calls, its rights, and folders that no user shares with another."""

import re

import pytest
from checks import held, package_version

PACKAGES = ("enroot", "enroot+caps")
# Prints a setting as enroot evaluates it, for the user who runs this.
EVALUATE = "eval echo \"$(sed -n 's/^%s //p' /etc/enroot/enroot.conf)\""


def evaluate(host, setting, user):
    return host.check_output("su %s -s /bin/bash -c %s", user, EVALUATE % setting)


def test_exact_version(host, expected):
    assert host.check_output("enroot version") == expected.versions["enroot"]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_of_that_version_and_held(host, expected, package):
    assert package_version(host, package).partition("-")[0] == expected.versions["enroot"]
    assert held(host, package)


def test_what_it_calls_is_there(host, expected):
    programs = {"jq", "mksquashfs", "parallel", "pigz", "zstd"}
    if expected.capabilities["system_family"] == "debian":
        programs |= {"fuse-overlayfs", "squashfuse"}
    assert {program for program in programs if not host.exists(program)} == set()


def test_gpus_reach_containers(host, expected):
    # The hook for NVIDIA calls it, and every container fails to start where it is missing.
    if "nvidia_driver" in expected.components:
        assert host.exists("nvidia-container-cli")


@pytest.mark.parametrize("hook", ["50-slurm-pmi.sh", "50-slurm-pytorch.sh"])
def test_hooks_for_jobs_are_linked(host, hook):
    link = host.file(f"/etc/enroot/hooks.d/{hook}")
    assert link.is_symlink
    assert link.linked_to == f"/usr/share/enroot/hooks.d/{hook}"
    assert host.run("test -x %s", link.linked_to).rc == 0


@pytest.mark.parametrize("setting", ["ENROOT_RUNTIME_PATH", "ENROOT_CACHE_PATH", "ENROOT_DATA_PATH"])
def test_every_user_has_folders_of_their_own(host, setting):
    assert evaluate(host, setting, "root").endswith("/user-0")
    assert evaluate(host, setting, "nobody") == evaluate(host, setting, "root").removesuffix(
        "0"
    ) + host.check_output("id -u nobody")


@pytest.mark.parametrize("setting", ["ENROOT_CACHE_PATH", "ENROOT_DATA_PATH"])
def test_users_can_make_them(host, setting):
    above = evaluate(host, setting, "root").rpartition("/")[0]
    assert (host.file(above).mode, host.file(above).user) == (0o1777, "root")
    # Nothing of a shared file system that a machine may or may not have mounted.
    assert not above.startswith(("/fsx", "/home", "/shared"))


@pytest.mark.needs("has_systemd")
def test_program_makes_them_for_its_user_alone(host):
    host.check_output("systemd-tmpfiles --create /etc/tmpfiles.d/enroot.conf")
    host.check_output("su nobody -s /bin/bash -c 'enroot list'")
    for setting in ("ENROOT_RUNTIME_PATH", "ENROOT_CACHE_PATH", "ENROOT_DATA_PATH"):
        folder = evaluate(host, setting, "nobody")
        assert (host.file(folder).user, host.file(folder).mode) == ("nobody", 0o700)
        host.check_output("rm -r %s", folder)


def test_boot_makes_the_folder_for_the_state_of_containers(host, expected):
    folder = expected.variables["enroot_runtime_folder"]
    lines = host.file("/etc/tmpfiles.d/enroot.conf").content_string.splitlines()
    assert [line.split()[:3] for line in lines] == [["d", folder, "1777"]]


def test_packages_settings_are_the_only_ones(host):
    # A setting of the file that is commented out or misspelt counts for nothing, and nobody notices.
    lines = [line for line in host.file("/etc/enroot/enroot.conf").content_string.splitlines() if line]
    assert all(re.match(r"#|ENROOT_[A-Z_]+ \S", line) for line in lines)


def test_users_may_make_namespaces(host, expected):
    lines = host.file("/etc/sysctl.d/90-enroot.conf").content_string.splitlines()
    found = dict(line.lstrip("-").split(" = ") for line in lines if not line.startswith("#"))
    wanted = {name: str(value) for name, value in expected.variables["enroot_sysctl"].items()}
    assert found == wanted
    assert int(found["user.max_user_namespaces"]) > 1
    if expected.capabilities["system_release"] == "24.04":
        assert found["kernel.apparmor_restrict_unprivileged_userns"] == "0"


@pytest.mark.needs("kernel")
def test_kernel_lets_users_make_namespaces(host, expected):
    for name, value in expected.variables["enroot_sysctl"].items():
        run = host.run("sysctl -n %s", name)
        assert run.rc != 0 or run.stdout.strip() == str(value), name
    assert host.run("su nobody -s /bin/sh -c 'unshare --user --map-root-user true'").rc == 0


@pytest.mark.parametrize(
    ("program", "rights"),
    [
        ("enroot-mksquashovlfs", {"cap_sys_admin"}),
        ("enroot-aufs2ovlfs", {"cap_sys_admin", "cap_mknod"}),
    ],
)
def test_users_can_import_images(host, program, rights):
    said = host.check_output("PATH=$PATH:/usr/sbin:/sbin getcap $(command -v %s)", program)
    assert set(re.findall(r"cap_\w+", said)) == rights
