"""Checks of a vendor's base image: it has the cataloged versions, in a state that jobs can use."""

import pytest
from checks import distributions, package_version
from checks.neuron import matches_release

NEURON_PACKAGES = {
    "neuron_runtime": "aws-neuronx-runtime-lib",
    "neuron_collectives": "aws-neuronx-collectives",
    "neuron_tools": "aws-neuronx-tools",
}
# Folders of the NCCL plugin in EFA releases, in NVIDIA's images and after builds from source.
PLUGIN_FOLDERS = "/opt/amazon /opt/aws-ofi-nccl /usr/lib /usr/local/lib"
# Python program that imports PyTorch and prints path and version of each NCCL library of the process, without
# a GPU.
NCCL = """
import ctypes, torch
for path in sorted({line.split()[-1] for line in open("/proc/self/maps") if "libnccl.so" in line}):
    number = ctypes.c_int()
    ctypes.CDLL(path).ncclGetVersion(ctypes.byref(number))
    print(path, number.value)
"""


def contains(expected, *names):
    return set(names) <= set(expected.variables["vendor_base_contains"])


@pytest.fixture(scope="module")
def python(expected):
    return expected.variables["vendor_base_python"]


def test_image_has_the_release_of_the_catalog(host, expected):
    found = dict(line.split("=", 1) for line in host.check_output("cat /etc/os-release").splitlines() if line)
    release = [found[name].strip('"') for name in ("ID", "VERSION_ID")]
    assert release == [expected.capabilities[f"system_{name}"] for name in ("distribution", "release")]


def test_python_distributions_have_the_versions_of_the_catalog(host, expected, python):
    wanted = expected.variables["vendor_base_distributions"]
    found = distributions(host, python) if wanted else {}
    assert {
        name: found.get(name, "")
        for name, version in wanted.items()
        if not matches_release(version, found.get(name, ""))
    } == {}


def test_packages_of_neuron_have_the_pinned_versions(host, expected):
    versions = expected.variables["vendor_base_versions"]
    wrong = {}
    for name, package in NEURON_PACKAGES.items():
        if contains(expected, name):
            found = package_version(host, package)
            if not matches_release(versions.get(name, ""), found):
                wrong[package] = found
    assert wrong == {}


def test_programs_of_neuron_start(host, expected):
    if contains(expected, "neuron_framework"):
        assert host.run("neuronx-cc --version").rc == 0
    if contains(expected, "neuron_tools"):
        assert host.run("nccom-test --help || /opt/aws/neuron/bin/nccom-test --help").rc == 0


def test_libraries_of_neuron_can_be_imported(host, expected, python):
    if contains(expected, "neuron_framework"):
        assert host.run("%s -c 'import torch_neuronx, neuronx_distributed'", python).rc == 0


def test_image_has_no_kernel_module(host):
    for package in ("aws-neuronx-dkms", "efa", "efa-nv-peermem"):
        assert package_version(host, package) == ""


def test_libfabric_has_the_provider_of_efa(host, expected):
    if not contains(expected, "efa"):
        return
    assert host.run("find /opt/amazon/efa -name 'libfabric.so.1*'").stdout.split()
    program = "/opt/amazon/efa/bin/fi_info"
    if host.file(program).exists:
        listed = host.check_output("%s --list", program).splitlines()
        assert "efa" in {line.strip().rstrip(":") for line in listed}


def test_plugin_of_nccl_finds_its_libraries(host, expected):
    if not contains(expected, "aws_ofi_nccl"):
        return
    found = host.run(f"find {PLUGIN_FOLDERS} -name 'libnccl-net*.so' 2>/dev/null").stdout.split()
    assert found
    for path in found:
        assert "not found" not in host.check_output("ldd %s", path), path


def test_pytorch_loads_one_nccl(host, expected, python):
    # torch.cuda.nccl.version() returns the version of the build, not of the library in the process.
    if contains(expected, "nccl"):
        assert len(host.check_output("%s -c %s", python, NCCL).splitlines()) == 1


def test_preloaded_libraries_exist(host):
    for path in host.check_output("printenv LD_PRELOAD || true").replace(":", " ").split():
        assert host.file(path).exists


def test_packages_and_files_that_conflict_with_efa_are_removed(host, expected):
    variables = expected.variables
    if variables["vendor_base_policy"] != "purge_then_install":
        return
    assert [path for path in variables["vendor_base_purged_paths"] if host.file(path).exists] == []
    # EFA's installer has packages with some of these names.
    if "efa" not in expected.components:
        assert [name for name in variables["vendor_base_purged"] if package_version(host, name)] == []
