"""The Lustre client: its programs and the module of the image's kernel, of one version and held."""

import pytest
from checks import held, module_info, package_version


def packages(expected):
    kernel = expected.capabilities["target_kernel"]
    names = {
        "debian": ("lustre-client-utils", f"lustre-client-modules-{kernel}"),
        "redhat": ("lustre-client",),
    }
    return names[expected.capabilities["system_family"]]


def test_exact_version_and_held(host, expected):
    for package in packages(expected):
        assert package_version(host, package) == expected.versions["lustre_client"]
        assert held(host, package)


@pytest.mark.parametrize("program", ["lctl", "lfs", "mount.lustre"])
def test_programs_are_there(host, program):
    assert host.run("PATH=$PATH:/usr/sbin:/sbin command -v %s", program).rc == 0


@pytest.mark.parametrize("module", ["lnet", "lustre"])
def test_module_is_for_the_kernel_of_the_image(host, expected, module):
    kernel = expected.capabilities["target_kernel"]
    assert kernel
    assert module_info(host, kernel, module)["vermagic"].split()[0] == kernel


def test_nothing_stands_for_the_newest_kernel(host):
    # This package brings a kernel along with its module, and the image boots that one.
    assert package_version(host, "lustre-client-modules-aws") == ""


@pytest.mark.needs("kernel")
def test_kernel_loads_the_module(host):
    assert host.run("modprobe --dry-run lustre").rc == 0


def test_nothing_is_mounted_at_boot(host):
    # The file system's name is known when a machine starts; one that is missing keeps it from starting.
    assert " lustre " not in host.file("/etc/fstab").content_string.replace("\t", " ")
