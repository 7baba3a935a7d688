"""Checks of GDRCopy: library and programs of the pinned version, the module for the image's kernel."""

import re

import pytest
from checks import module_info

PROGRAMS = ("gdrcopy_apiperf", "gdrcopy_copybw", "gdrcopy_copylat", "gdrcopy_sanity")
FUNCTIONS = ("gdr_open", "gdr_pin_buffer", "gdr_copy_to_mapping")
COPY_FUNCTIONS = ("memcpy_uncached_store_avx",)
# Only machines with a GPU have the driver's libcuda.so.1.
OF_THE_HOST = {"libcuda.so.1"}


def first_numbers(version):
    return version.split(".")[:2]


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_finds_its_libraries(host, program):
    path = host.check_output("command -v %s", program)
    missing = {
        line.split()[0] for line in host.check_output("ldd %s", path).splitlines() if "not found" in line
    }
    assert missing <= OF_THE_HOST


def test_header_has_the_pinned_version(host, expected):
    text = host.file(f"{expected.variables['gdrcopy_prefix']}/include/gdrapi.h").content_string
    macros = dict(re.findall(r"#define GDR_API_(MAJOR|MINOR)_VERSION\s+(\d+)", text))
    assert [macros["MAJOR"], macros["MINOR"]] == first_numbers(expected.versions["gdrcopy"])


def test_loader_finds_one_library(host, expected):
    lines = host.check_output("ldconfig -p | grep -F libgdrapi.so.").splitlines()
    real = {host.check_output("readlink -f %s", line.split()[-1]) for line in lines}
    assert len(real) == 1
    numbers = real.pop().partition(".so.")[2]
    assert first_numbers(numbers) == first_numbers(expected.versions["gdrcopy"])


def test_library_exports_its_functions(host, expected):
    # A build that fails to detect the processor leaves out the functions that copy.
    arch = expected.capabilities["arch"]
    names = FUNCTIONS + (COPY_FUNCTIONS if arch == "x86_64" else ())
    path = host.check_output("ldconfig -p | awk '/libgdrapi[.]so[.]/ {print $NF; exit}'")
    program = f"import ctypes; library = ctypes.CDLL('{path}'); [getattr(library, name) for name in {names}]"
    run = host.run("python3 -c %s", program)
    assert run.rc == 0, run.stderr


def test_build_record_has_version_and_commit(host, expected):
    record = host.file(f"{expected.variables['gdrcopy_prefix']}/built-from").content_string.split()
    source = expected.variables["gdrcopy_downloads"]["source"]
    assert record == [expected.versions["gdrcopy"], source["commit"]]


@pytest.mark.needs("can_load_modules")
def test_module_matches_the_kernel(host, expected):
    kernel = expected.capabilities["target_kernel"]
    info = module_info(host, kernel, "gdrdrv")
    assert info["vermagic"].split()[0] == kernel
    pin = expected.versions["gdrcopy"]
    assert pin == info["version"] or pin.startswith(f"{info['version']}.")


@pytest.mark.needs("can_load_modules")
def test_dkms_has_installed_only_the_pinned_version(host, expected):
    lines = [line for line in host.check_output("dkms status").splitlines() if line.startswith("gdrdrv")]
    assert len(lines) == 1
    assert lines[0].endswith(": installed")
    assert re.split(r"[/,] ?", lines[0])[1] == expected.versions["gdrcopy"]


@pytest.mark.needs("can_load_modules")
def test_module_depends_on_the_driver(host, expected):
    # The module was linked with a dummy of the driver's symbols; modprobe must resolve them from the real
    # driver.
    shown = "modprobe --show-depends --set-version %s gdrdrv"
    steps = host.check_output(shown, expected.capabilities["target_kernel"]).splitlines()
    assert [step for step in steps[:-1] if "/nvidia" in step]
    assert steps[-1].endswith(("gdrdrv.ko ", "gdrdrv.ko")) or "gdrdrv.ko." in steps[-1]


@pytest.mark.needs("has_systemd")
def test_module_is_loaded_by_the_path_unit(host, expected):
    assert host.run("systemctl is-enabled gdrcopy.service").stdout.strip() == "disabled"
    wanted = "enabled" if expected.variables["gdrcopy_at_boot"] else "disabled"
    assert host.run("systemctl is-enabled gdrcopy.path").stdout.strip() == wanted


@pytest.mark.needs("has_systemd")
@pytest.mark.parametrize("unit", ["gdrcopy.service", "gdrcopy.path"])
def test_unit_is_valid(host, unit):
    run = host.run("systemd-analyze verify %s", unit)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


@pytest.mark.needs("has_systemd")
def test_load_script_is_executable(host):
    assert host.file("/usr/local/libexec/gdrdrv-load").mode == 0o755


def test_library_sources_are_removed(host):
    found = host.check_output("find / -xdev -path /proc -prune -o -name gdrapi.c -print")
    assert found == ""


@pytest.mark.needs("gpu")
@pytest.mark.parametrize("program", PROGRAMS)
def test_program_runs_on_the_gpu(host, program):
    run = host.run("%s", program)
    assert run.rc == 0, run.stdout + run.stderr
