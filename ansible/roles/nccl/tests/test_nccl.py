"""Checks of NCCL: header, library and packages of the pinned version, one library in the loader cache."""

import pytest
from checks import held, package_version

LIBRARY = "libnccl.so.2"
# Python program that prints the version of the library that the loader finds; it needs no GPU.
VERSION = (
    "import ctypes, sys; number = ctypes.c_int();"
    f"ctypes.CDLL('{LIBRARY}').ncclGetVersion(ctypes.byref(number)); print(number.value)"
)


def numbers(expected):
    return expected.versions["nccl"].partition("-")[0].split(".")


@pytest.fixture
def is_packaged(expected):
    return expected.capabilities["system_family"] in expected.variables["nccl_downloads"]


def test_header_has_the_pinned_version(host, expected, is_packaged):
    header = "/usr/include/nccl.h" if is_packaged else "/opt/nccl/include/nccl.h"
    lines = host.check_output("grep -E '^#define NCCL_(MAJOR|MINOR|PATCH) ' %s", header).splitlines()
    macros = {line.split()[1]: line.split()[2] for line in lines}
    assert [macros[f"NCCL_{part}"] for part in ("MAJOR", "MINOR", "PATCH")] == numbers(expected)


def test_library_has_the_pinned_version(host, expected):
    major, minor, patch = map(int, numbers(expected))
    assert int(host.check_output("python3 -c %s", VERSION)) == major * 10000 + minor * 100 + patch


def test_loader_finds_one_library(host):
    found = host.check_output("ldconfig -p | awk -v name=%s '$1 == name {print $NF}'", LIBRARY).split()
    assert len({host.check_output("readlink --canonicalize-existing %s", path) for path in found}) == 1


def test_linker_finds_the_library(host):
    library = host.check_output("ldconfig -p | awk -v name=%s '$1 == name {print $NF}'", LIBRARY).split()[0]
    assert host.file(library.removesuffix(".2")).linked_to


def test_packages_are_pinned_and_held(host, expected, is_packaged):
    if not is_packaged:
        return
    for name in expected.variables["nccl_packages"]:
        assert package_version(host, name).startswith(expected.versions["nccl"])
        assert held(host, name)


def test_packages_match_the_cuda_toolkit(host, expected, is_packaged):
    # The newest build of an NCCL version may be for a newer CUDA than the image's driver supports.
    cuda = expected.variables["nccl_cuda"]
    if not is_packaged or not cuda:
        return
    major = cuda.split(".")[0]
    for name in expected.variables["nccl_packages"]:
        assert package_version(host, name).partition("+cuda")[2].split(".")[0] == major
