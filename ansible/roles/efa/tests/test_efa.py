"""Checks of EFA: all packages of the pinned installer, modules for the image's kernel, no other MPI."""

import re

import pytest
from checks import module_info, package_version

RECORD = "/opt/amazon/efa_installed_packages"


def recorded(host):
    """Return package versions by name from the installer's record (name_version_arch or the rpm form)."""
    lines = host.check_output("grep --invert-match ^# %s", RECORD).split()
    if host.exists("dpkg-query"):
        return dict(line.split("_")[:2] for line in lines)
    return dict(re.fullmatch(r"(.+)-([^-]+-[^-]+)[.][^.]+", line).groups() for line in lines)


def is_minimal(expected):
    return expected.variables["efa_minimal"]


def numbers(version):
    return [int(number) for number in version.split(".")]


def names_elsewhere(expected):
    """Return the packages in the installer's record that the role efa or another role removes later."""
    names = set() if expected.capabilities["is_container"] else {"efa-nv-peermem"}
    if expected.variables.get("aws_ofi_nccl_policy") == "source":
        names.add("libnccl-ofi")
    return names


def test_installer_has_the_pinned_version(host, expected):
    first = host.check_output("head --lines=1 %s", RECORD)
    title, _, found = first.rpartition(": ")
    assert title == "# EFA installer version"
    if expected.variables["efa_policy"] == "verify_minimum":
        assert numbers(found) >= numbers(expected.versions["efa"])
    else:
        assert found == expected.versions["efa"]


def test_all_packages_of_the_installer_are_installed(host, expected):
    # The installer keeps newer installed packages but records the versions that it contains.
    wanted = {
        name: version for name, version in recorded(host).items() if name not in names_elsewhere(expected)
    }
    assert {name: package_version(host, name) for name in wanted} == wanted


def test_no_files_of_an_older_installer_remain(host):
    # Old installers wrote their record to this file.
    assert not host.file("/opt/amazon/efa/installed_packages").exists


def test_versions_of_fi_info_libfabric_and_package_match(host, expected):
    if is_minimal(expected):
        assert not host.file("/opt/amazon/efa/bin/fi_info").exists
        return
    name = "libfabric1-aws" if host.exists("dpkg-query") else "libfabric-aws"
    # fi_info prints its version after the path by which it was called.
    program = "/opt/amazon/efa/bin/fi_info"
    output = dict(line.split(": ", 1) for line in host.check_output("%s --version", program).splitlines())
    assert output[program] == output["libfabric"] == package_version(host, name).partition("-")[0]


def test_loader_finds_libfabric_of_efa_first(host, expected):
    if is_minimal(expected):
        return
    found = host.check_output("ldconfig -p | awk '/libfabric[.]so[.]1 / {print $NF}'").splitlines()
    assert found[0].startswith("/opt/amazon/efa/lib")


def test_fi_info_reports_no_data_without_a_device(host, expected):
    if is_minimal(expected) or expected.capabilities.get("efa-device"):
        return
    run = host.run("/opt/amazon/efa/bin/fi_info -p efa")
    assert run.rc != 0
    assert "No data available" in run.stdout + run.stderr


def test_only_one_libibverbs_is_installed(host):
    found = host.check_output("ldconfig -p | awk '/libibverbs[.]so[.]1 / {print $NF}'").splitlines()
    assert len({host.file(path).linked_to for path in found}) == 1


def test_distribution_mpi_is_removed(host, expected):
    if is_minimal(expected):
        return
    assert [name for name in expected.variables["efa_conflicting"] if package_version(host, name)] == []


def test_installer_mpi_runs(host, expected):
    programs = host.run("ls /opt/amazon/openmpi*/bin/mpirun").stdout.split()
    assert bool(programs) != is_minimal(expected)
    for program in programs:
        assert "Open MPI" in host.check_output("%s --version", program)


def test_container_has_no_kernel_module(host, expected):
    if not expected.capabilities["is_container"]:
        return
    assert package_version(host, "efa") == ""
    assert package_version(host, "efa-nv-peermem") == ""
    assert host.run("find /usr/src /var/lib/dkms -maxdepth 1 -name 'efa*'").stdout == ""


def test_only_machine_images_have_the_limits_of_the_installer(host, expected):
    # The installer's limits would replace those of a container image.
    assert bool(package_version(host, "efa-config")) != expected.capabilities["is_container"]


@pytest.mark.needs("can_load_modules")
def test_module_matches_the_kernel(host, expected):
    kernel = expected.capabilities["target_kernel"]
    module = module_info(host, kernel, "efa")
    assert module["vermagic"].split()[0] == kernel
    assert package_version(host, "efa").startswith(re.match(r"[0-9.]+", module["version"]).group())


@pytest.mark.needs("can_load_modules")
def test_all_modules_are_installed(host):
    lines = [line for line in host.check_output("dkms status").splitlines() if line.startswith("efa")]
    assert lines
    assert [line for line in lines if not line.endswith(": installed")] == []


@pytest.mark.needs("can_load_modules")
def test_peer_memory_module_requires_the_nvidia_driver(host, expected):
    kernel = expected.capabilities["target_kernel"]
    # Debian names the driver's module nvidia-current or nvidia-current-open. The EKS AMI archives several
    # drivers and installs one of them at boot.
    names = "-name 'nvidia.ko*' -o -name 'nvidia-current*.ko*' -o -name 'nvidia-tesla*.ko*'"
    archived = host.run("find /var/lib/dkms-archive -name 'nvidia*' -type f").stdout
    has_driver = bool(archived or host.check_output(f"find /lib/modules/%s {names}", kernel))
    module = module_info(host, kernel, "efa_nv_peermem")
    assert bool(module) == has_driver
    assert not has_driver or module["vermagic"].split()[0] == kernel
    # With a leftover entry, every boot would try to load efa_nv_peermem, which needs NVIDIA's driver.
    entries = host.run("grep -rls efa_nv_peermem /etc/modules-load.d /usr/lib/modules-load.d").stdout.split()
    assert bool(entries) <= has_driver


@pytest.mark.needs("can_load_modules")
def test_driver_sources_have_no_build_products(host):
    products = "-path '/usr/src/nvidia-*' '(' -name '*.o' -o -name '*.ko' -o -name Module.symvers ')'"
    assert host.check_output(f"find /usr/src {products}") == ""


@pytest.mark.needs("efa-device")
def test_efa_device_is_usable(host):
    run = host.run("/opt/amazon/efa/bin/fi_info -p efa -t FI_EP_RDM")
    assert run.rc == 0
    assert "provider: efa" in run.stdout
    assert host.run("ls /dev/infiniband/uverbs*").rc == 0
