"""Checks of enroot: the pinned release, required programs, capabilities and separate folders for users."""

import re

import pytest
from checks import held, package_version

PACKAGES = ("enroot", "enroot+caps")
# Shell command that prints a setting as enroot evaluates it for the current user.
EVALUATE = "eval echo \"$(sed -n 's/^%s //p' /etc/enroot/enroot.conf)\""


def evaluate(host, setting, user):
    return host.check_output("su %s -s /bin/bash -c %s", user, EVALUATE % setting)


def test_version_matches_the_pin(host, expected):
    assert host.check_output("enroot version") == expected.versions["enroot"]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_pinned_and_held(host, expected, package):
    assert package_version(host, package).partition("-")[0] == expected.versions["enroot"]
    assert held(host, package)


def test_required_programs_are_installed(host, expected):
    programs = {"jq", "mksquashfs", "parallel", "pigz", "zstd"}
    if expected.capabilities["system_family"] == "debian":
        programs |= {"fuse-overlayfs", "squashfuse"}
    assert {program for program in programs if not host.exists(program)} == set()


def test_gpu_hook_finds_nvidia_container_cli(host, expected):
    # NVIDIA's hook calls nvidia-container-cli; without that program no container starts.
    if "nvidia_driver" in expected.components:
        assert host.exists("nvidia-container-cli")


@pytest.mark.parametrize("hook", ["50-slurm-pmi.sh", "50-slurm-pytorch.sh"])
def test_slurm_hooks_are_linked(host, hook):
    link = host.file(f"/etc/enroot/hooks.d/{hook}")
    assert link.is_symlink
    assert link.linked_to == f"/usr/share/enroot/hooks.d/{hook}"
    assert host.run("test -x %s", link.linked_to).rc == 0


@pytest.mark.parametrize("setting", ["ENROOT_RUNTIME_PATH", "ENROOT_CACHE_PATH", "ENROOT_DATA_PATH"])
def test_each_user_has_separate_folders(host, setting):
    assert evaluate(host, setting, "root").endswith("/user-0")
    assert evaluate(host, setting, "nobody") == evaluate(host, setting, "root").removesuffix(
        "0"
    ) + host.check_output("id -u nobody")


@pytest.mark.parametrize("setting", ["ENROOT_CACHE_PATH", "ENROOT_DATA_PATH"])
def test_users_can_create_their_folders(host, setting):
    above = evaluate(host, setting, "root").rpartition("/")[0]
    assert (host.file(above).mode, host.file(above).user) == (0o1777, "root")
    # enroot needs a local file system.
    assert not above.startswith(("/fsx", "/home", "/shared"))


@pytest.mark.needs("has_systemd")
def test_user_folders_are_private(host):
    host.check_output("systemd-tmpfiles --create /etc/tmpfiles.d/enroot.conf")
    host.check_output("su nobody -s /bin/bash -c 'enroot list'")
    for setting in ("ENROOT_RUNTIME_PATH", "ENROOT_CACHE_PATH", "ENROOT_DATA_PATH"):
        folder = evaluate(host, setting, "nobody")
        assert (host.file(folder).user, host.file(folder).mode) == ("nobody", 0o700)
        host.check_output("rm -r %s", folder)


def test_tmpfiles_creates_the_runtime_folder(host, expected):
    folder = expected.variables["enroot_runtime_folder"]
    lines = host.file("/etc/tmpfiles.d/enroot.conf").content_string.splitlines()
    assert [line.split()[:3] for line in lines] == [["d", folder, "1777"]]


def test_configuration_lines_are_valid(host):
    # enroot silently ignores misspelled settings.
    lines = [line for line in host.file("/etc/enroot/enroot.conf").content_string.splitlines() if line]
    assert all(re.match(r"#|ENROOT_[A-Z_]+ \S", line) for line in lines)


def test_sysctl_settings_allow_user_namespaces(host, expected):
    lines = host.file("/etc/sysctl.d/90-enroot.conf").content_string.splitlines()
    found = dict(line.lstrip("-").split(" = ") for line in lines if not line.startswith("#"))
    wanted = {name: str(value) for name, value in expected.variables["enroot_sysctl"].items()}
    assert found == wanted
    assert int(found["user.max_user_namespaces"]) > 1
    if expected.capabilities["system_release"] == "24.04":
        assert found["kernel.apparmor_restrict_unprivileged_userns"] == "0"


@pytest.mark.needs("kernel")
def test_users_can_create_namespaces(host, expected):
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
def test_helper_programs_have_their_capabilities(host, program, rights):
    output = host.check_output("PATH=$PATH:/usr/sbin:/sbin getcap $(command -v %s)", program)
    assert set(re.findall(r"cap_\w+", output)) == rights
