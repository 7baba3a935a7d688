"""Checks of the kernel: only the pinned one with its headers, and no metapackage that installs another."""

import re
from pathlib import Path

import pytest
import yaml
from checks import held, package_version

ROLES = Path(__file__).resolve().parents[2]
# Names of metapackages that depend on the newest kernel.
FOLLOWER = re.compile(
    r"linux(-image|-headers|-modules-extra)?(-cloud)?-(amd64|arm64|aws|generic|virtual)(-(lts|hwe|edge).*)?"
)


def find_steps(role):
    """Yield the file and the mapping of every task of a role, including tasks in blocks."""

    def open_blocks(steps):
        for step in steps:
            yield step
            for key in ("block", "rescue", "always"):
                yield from open_blocks(step.get(key, []))

    for path in sorted((role / "tasks").glob("*.yml")):
        yield from ((path, step) for step in open_blocks(yaml.safe_load(path.read_text(encoding="utf-8"))))


def packages_of(host, expected):
    """Return the names of the packages with the kernel image and its headers."""
    kernel = expected.capabilities["target_kernel"]
    if expected.capabilities["system_family"] == "debian":
        return [f"linux-image-{kernel}", f"linux-headers-{kernel}"]
    owner = "rpm --query --queryformat '%%{NAME}' --file /boot/vmlinuz-%s"
    name = host.check_output(owner, kernel)
    return [name, f"{name}-devel"]


def test_only_one_kernel_is_installed(host, expected):
    found = host.check_output("find /lib/modules -mindepth 1 -maxdepth 1 -printf '%f\\n'").split()
    assert found == [expected.capabilities["target_kernel"]]


def test_boot_folder_has_one_kernel(host, expected):
    kernel = expected.capabilities["target_kernel"]
    found = host.check_output("find /boot -maxdepth 1 -name 'vmlinuz-*' -printf '%f\\n'").split()
    assert [name for name in found if "rescue" not in name] == [f"vmlinuz-{kernel}"]
    initramfs = host.check_output("find /boot -maxdepth 1 -name 'init*%s*' -size +1M", kernel).split()
    assert len(initramfs) == 1


def test_no_deferred_initramfs_build_remains(host):
    # While roles are applied, requests to build the initramfs are deferred.
    if host.exists("dpkg-divert"):
        assert host.check_output("dpkg-divert --list /usr/sbin/update-initramfs") == ""
    assert not host.file("/var/lib/misc/initramfs-asked").exists


def test_boot_menu_has_the_initramfs(host, expected):
    # A menu that was written before the initramfs existed boots the kernel without it.
    menu = host.file("/boot/grub/grub.cfg")
    if expected.capabilities["system_family"] == "debian" and menu.exists:
        assert f"initrd.img-{expected.capabilities['target_kernel']}" in menu.content_string


def test_kernel_matches_the_pin(host, expected):
    wanted = expected.versions["kernel"]
    image, _ = packages_of(host, expected)
    version = package_version(host, image)
    assert wanted == expected.capabilities["target_kernel"] or re.match(
        rf"{re.escape(wanted)}(\W|$)", version
    )


def test_headers_match_the_kernel(host, expected):
    kernel = expected.capabilities["target_kernel"]
    build = f"/lib/modules/{kernel}/build"
    assert host.file(f"{build}/Makefile").exists
    assert host.file(f"{build}/Module.symvers").size > 0
    release = host.file(f"{build}/include/generated/utsrelease.h").content_string
    assert f'UTS_RELEASE "{kernel}"' in release


def test_compiler_of_the_kernel_is_installed(host, expected):
    # A module built by another compiler may load and still misbehave.
    kernel = expected.capabilities["target_kernel"]
    asked = host.check_output(
        "sed -n 's/^CONFIG_CC_VERSION_TEXT=\"\\([a-z0-9_-]*\\).*/\\1/p' /lib/modules/%s/build/.config", kernel
    )
    assert host.exists(asked), asked


def test_modules_are_indexed(host, expected):
    kernel = expected.capabilities["target_kernel"]
    assert host.file(f"/lib/modules/{kernel}/modules.dep").size > 0
    assert host.check_output("modinfo -k %s -F vermagic tcp_bbr", kernel).split()[0] == kernel


def test_kernel_is_held(host, expected):
    missing = [name for name in packages_of(host, expected) if not held(host, name)]
    assert missing == []


def test_no_kernel_metapackage_is_installed(host, expected):
    if expected.capabilities["system_family"] == "debian":
        installed = host.check_output("dpkg-query --show --showformat '${db:Status-Abbrev}${Package}\\n'")
        names = [line.split()[-1] for line in installed.splitlines() if line[1] == "i"]
        followers = [name for name in names if FOLLOWER.fullmatch(name)]
        assert followers == []
    else:
        names = host.check_output("rpm --query --all --queryformat '%{NAME}\\n' 'kernel*'").split()
        assert len([name for name in names if re.fullmatch(r"kernel(\d+\.\d+)?", name)]) == 1


@pytest.mark.needs("kernel")
def test_machine_runs_the_pinned_kernel(host, expected):
    assert host.check_output("uname --kernel-release") == expected.capabilities["target_kernel"]


def test_only_the_kernel_role_restarts_the_machine():
    roles = {
        role.name
        for role in ROLES.iterdir()
        for _, step in find_steps(role)
        if {"ansible.builtin.reboot", "reboot"} & set(step)
    }
    assert roles == {"kernel"}


def test_machine_is_restarted_only_if_needed():
    steps = [step for _, step in find_steps(ROLES / "kernel")]
    [restart] = [step for step in steps if step.get("ansible.builtin.include_tasks") == "restart.yml"]
    assert restart["when"].startswith("kernel_running.stdout in")
