"""Checks of the CUDA toolkit: the pinned compiler builds a working program and no search paths are set."""

import json
import re

import pytest
from checks import environment_files, held, session_environment

PROGRAM = r"""
#include <cstdio>
#include <cuda.h>
__global__ void fill(int *out) { out[threadIdx.x] = threadIdx.x; }
int main() {
    int devices = -1;
    cudaError_t found = cudaGetDeviceCount(&devices);
    std::printf("%d %d\n", CUDART_VERSION, found);
    return 0;
}
"""
PATHS = re.compile(r"\b(LD_LIBRARY_PATH|LIBRARY_PATH|CPATH|C_INCLUDE_PATH|CPLUS_INCLUDE_PATH|LD_RUN_PATH)=")
# CUDA errors without a usable GPU: driver too old, no device, driver missing.
WITHOUT_DEVICE = {35, 100, 999}


@pytest.fixture
def release(expected):
    """Return the major and minor version of the pinned toolkit."""
    return ".".join(expected.versions["cuda"].split(".")[:2])


@pytest.fixture
def folder(host):
    # /tmp may be mounted noexec.
    path = host.check_output("mktemp -d -p /root")
    yield path
    host.check_output("rm -r %s", path)


def test_compiler_has_the_pinned_version(host, release):
    output = host.check_output("/usr/local/cuda/bin/nvcc --version")
    assert f"release {release}," in output


def test_session_finds_the_compiler(host, release):
    assert f"release {release}," in host.check_output("env -i bash -lc 'nvcc --version'")


def test_version_file_matches_the_pin(host, release):
    output = json.loads(host.file("/usr/local/cuda/version.json").content_string)
    assert output["cuda"]["version"].startswith(f"{release}.")


@pytest.mark.parametrize("runtime", ["static", "shared"])
def test_nvcc_compiles_a_program_that_runs(host, folder, release, runtime):
    host.check_output("printf %s > %s/program.cu", PROGRAM.replace("%", "%%").replace("\\", "\\\\"), folder)
    # Most builds pass the include folder; nvcc is stricter about headers that it finds there.
    command = "cd %s && /usr/local/cuda/bin/nvcc -I/usr/local/cuda/include --cudart %s -o program program.cu"
    host.check_output(command, folder, runtime)
    version, error = host.check_output("%s/program", folder).split()
    major, minor = release.split(".")
    assert int(version) == int(major) * 1000 + int(minor) * 10
    assert int(error) == 0 or int(error) in WITHOUT_DEVICE


def test_loader_finds_the_cuda_runtime(host):
    assert host.run("ldconfig -p | grep --quiet 'libcudart[.]so[.]'").rc == 0


@pytest.mark.parametrize("name", ["include/cuda.h", "include/cuda_runtime.h", "lib64/libcudart.so"])
def test_headers_and_libraries_are_in_usr_local_cuda(host, name):
    assert host.file(f"/usr/local/cuda/{name}").exists


def test_headers_work_as_system_headers(host, folder):
    # aws-ofi-nccl passes CUDA's include folder with -isystem; C++ headers must still find C headers.
    source = "#include <cstdlib>\\n#include <cuda_runtime.h>\\n"
    host.check_output(f"printf '{source}' > %s/program.cpp", folder)
    run = host.run("g++ -isystem /usr/local/cuda/include -c -o %s/program.o %s/program.cpp", folder, folder)
    assert run.rc == 0, run.stderr


def test_libcuda_stub_exists(host):
    assert host.file("/usr/local/cuda/lib64/stubs/libcuda.so").exists


def test_packages_are_held(host, release):
    names = {f"cuda-toolkit-{release.replace('.', '-')}", "nvidia-cuda-toolkit"}
    assert any(held(host, name) for name in names)


def test_additional_toolkits_are_installed(host, expected):
    for version in expected.variables["cuda_further"]:
        further = ".".join(version.split(".")[:2])
        assert f"release {further}," in host.check_output("/usr/local/cuda-%s/bin/nvcc --version", further)


def test_static_libraries_match_the_setting(host, expected):
    if expected.capabilities["system_family"] == "debian":
        found = host.check_output(
            "find /usr/lib /usr/local/cuda*/ -name 'libcu*_static*.a' -printf '%f\\n'"
        ).split()
        assert "libcudart_static.a" in found
        assert (set(found) != {"libcudart_static.a"}) is expected.variables["cuda_static_libraries"]


def test_no_library_search_path_is_set(host):
    # A trailing colon in a search path adds an empty element, which means the current directory.
    texts = environment_files(host)
    assert {path for path, text in texts.items() if PATHS.search(text)} == set()
    assert not {"LD_LIBRARY_PATH", "C_INCLUDE_PATH", "CPATH"} & set(session_environment(host))
    assert "" not in session_environment(host)["PATH"].split(":")


def test_no_environment_file_has_an_architecture_specific_cuda_path(host):
    assert [
        path for path, text in environment_files(host).items() if "cuda" in text and "targets/" in text
    ] == []


def test_container_has_no_libcuda(host, expected):
    if expected.capabilities["is_container"]:
        # The stub in lib64/stubs is only for linking and not in the loader cache.
        assert host.run("ldconfig -p | grep 'libcuda[.]so'").rc == 1


@pytest.mark.needs("gpu")
def test_driver_supports_the_toolkit(host, release):
    output = re.search(r"CUDA Version: (\d+)", host.check_output("nvidia-smi"))
    assert int(output[1]) >= int(release.partition(".")[0])
