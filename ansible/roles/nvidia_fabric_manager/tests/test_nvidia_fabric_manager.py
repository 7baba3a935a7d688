"""Checks of the fabric manager: the driver's version, started at boot only if there are NVSwitches."""

import pytest
from checks import held, package_version

UNIT = "nvidia-fabricmanager.service"


@pytest.fixture
def package(host):
    path = host.check_output("readlink -f $(command -v nv-fabricmanager)")
    if host.exists("dpkg-query"):
        return host.check_output("dpkg-query --search %s", path).partition(":")[0]
    return host.check_output("rpm --query --queryformat '%%{NAME}' --file %s", path)


def test_version_matches_the_driver(host, expected, package):
    driver = expected.versions["nvidia_driver"].partition("-")[0]
    assert package_version(host, package).rpartition(":")[2].partition("-")[0] == driver


def test_package_is_held(host, package):
    assert held(host, package)


def test_subnet_manager_has_the_pinned_version(host, expected):
    wanted = expected.variables["nvidia_fabric_manager_nvlsm_version"]
    assert package_version(host, "nvlsm") == wanted
    assert host.file("/etc/modules-load.d/nvidia-fabricmanager.conf").exists is bool(wanted)


def test_service_is_enabled_at_boot(host):
    # A unit without an [Install] section is static and never starts at boot.
    assert host.check_output("systemctl is-enabled %s", UNIT) == "enabled"


def test_service_requires_nvswitches(host):
    condition = host.check_output("systemctl show --property ExecCondition --value %s", UNIT)
    assert "argv[]=/usr/local/libexec/nvidia-present nvswitch ;" in condition


def test_service_was_not_started_during_the_build(host):
    times = host.check_output("systemctl show --property ExecMainStartTimestampMonotonic --value %s", UNIT)
    assert times == "0" or host.run("/usr/local/libexec/nvidia-present nvswitch").rc == 0


def test_unit_is_valid(host):
    run = host.run("systemd-analyze verify %s", UNIT)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


def test_no_stray_files_in_usr(host):
    # /usr/systemd exists if an archive of the vendor was unpacked into /usr.
    assert not host.file("/usr/systemd").exists


@pytest.mark.needs("gpu", "nvswitch")
def test_fabric_is_complete(host):
    assert host.service("nvidia-fabricmanager").is_running
    states = [
        line for line in host.check_output("nvidia-smi -q").splitlines() if line.strip().startswith("State")
    ]
    assert states
    assert {line.partition(":")[2].strip() for line in states} == {"Completed"}
