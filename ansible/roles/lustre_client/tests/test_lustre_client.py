"""Checks of the Lustre client: programs and kernel module of the pinned version, held."""

import pytest
from checks import held, module_info, package_version


def packages(expected):
    kernel = expected.capabilities["target_kernel"]
    names = {
        "debian": ("lustre-client-utils", f"lustre-client-modules-{kernel}"),
        "redhat": ("lustre-client",),
    }
    return names[expected.capabilities["system_family"]]


def test_packages_are_pinned_and_held(host, expected):
    for package in packages(expected):
        assert package_version(host, package) == expected.versions["lustre_client"]
        assert held(host, package)


@pytest.mark.parametrize("program", ["lctl", "lfs", "mount.lustre"])
def test_program_is_installed(host, program):
    assert host.run("PATH=$PATH:/usr/sbin:/sbin command -v %s", program).rc == 0


@pytest.mark.parametrize("module", ["lnet", "lustre"])
def test_module_matches_the_kernel(host, expected, module):
    kernel = expected.capabilities["target_kernel"]
    assert kernel
    assert module_info(host, kernel, module)["vermagic"].split()[0] == kernel


def test_kernel_metapackage_is_not_installed(host):
    # lustre-client-modules-aws installs another kernel, which the image would boot.
    assert package_version(host, "lustre-client-modules-aws") == ""


@pytest.mark.needs("kernel")
def test_modprobe_finds_the_module(host):
    assert host.run("modprobe --dry-run lustre").rc == 0


def test_fstab_has_no_lustre_mount(host):
    # File systems are known only when an instance starts; a missing one would block its boot.
    assert " lustre " not in host.file("/etc/fstab").content_string.replace("\t", " ")
