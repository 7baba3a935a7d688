"""Checks of DCGM: the pinned version, for the driver's CUDA version, started only if there is a GPU."""

import re

import pytest
from checks import held, package_version


@pytest.fixture
def packages(host, expected):
    """Return the names of DCGM's packages."""
    manager = (
        "dpkg-query --show --showformat '${Package}\\n'"
        if host.exists("dpkg-query")
        else "rpm -qa --qf '%{NAME}\\n'"
    )
    major = expected.versions["dcgm"].partition(".")[0]
    return [
        name
        for name in host.check_output(manager).split()
        if name.startswith(f"datacenter-gpu-manager-{major}-")
    ]


def test_packages_have_the_pinned_version(host, expected, packages):
    major = expected.versions["dcgm"].partition(".")[0]
    kinds = {re.sub(r"\d+$", "", name.removeprefix(f"datacenter-gpu-manager-{major}-")) for name in packages}
    assert kinds == {"core", "cuda", "proprietary", "proprietary-cuda"}
    versions = {package_version(host, name).rpartition(":")[2].partition("-")[0] for name in packages}
    assert versions == {expected.versions["dcgm"]}


def test_packages_are_held(host, packages):
    assert [name for name in packages if not held(host, name)] == []


def test_plugins_match_the_cuda_of_the_driver(expected, packages):
    branch = int(expected.versions["nvidia_driver"].partition(".")[0])
    wanted = 13 if branch >= 580 else 12 if branch >= 525 else 11
    assert {int(found[1]) for name in packages if (found := re.search(r"-cuda(\d+)$", name))} == {wanted}


def test_program_has_the_pinned_version(host, expected):
    assert expected.versions["dcgm"] in host.check_output("dcgmi --version")


def test_host_engine_is_started_by_the_path_unit(host, expected):
    assert host.run("systemctl is-enabled nvidia-dcgm.service").stdout.strip() == "disabled"
    wanted = "enabled" if expected.variables["dcgm_at_boot"] else "disabled"
    assert host.run("systemctl is-enabled nvidia-dcgm.path").stdout.strip() == wanted


def test_host_engine_does_not_run_without_a_device(host, expected):
    if not expected.capabilities.get("gpu"):
        assert not host.service("nvidia-dcgm").is_running


@pytest.mark.parametrize("unit", ["nvidia-dcgm.service", "nvidia-dcgm.path"])
def test_unit_is_valid(host, unit):
    run = host.run("systemd-analyze verify %s", unit)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


@pytest.mark.needs("gpu")
def test_short_diagnosis_passes(host):
    assert host.run("dcgmi diag -r 1").rc == 0
