"""Checks of the GPU metrics exporter: pinned version, exported fields, started only if there is a GPU."""

import re

import pytest
from checks import held, package_version
from checks.exporters import is_enabled, problems, properties, scrape

PACKAGE = "datacenter-gpu-manager-exporter"
UNIT = "nvidia-dcgm-exporter"
COUNTERS = "/etc/dcgm-exporter/image-counters.csv"


def list_fields(host):
    lines = host.file(COUNTERS).content_string.splitlines()
    return [line.split(",")[0].strip() for line in lines if line and not line.startswith("#")]


def test_package_is_pinned_and_held(host, expected):
    assert package_version(host, PACKAGE) == expected.versions["dcgm_exporter"]
    assert held(host, PACKAGE)


@pytest.mark.parametrize(
    "field",
    [
        "DCGM_FI_DEV_GPU_UTIL",
        "DCGM_FI_DEV_XID_ERRORS",
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
    ],
)
def test_fields_used_by_alerts_are_exported(host, field):
    assert list_fields(host).count(field) == 1


def test_counters_have_name_type_and_help(host):
    lines = host.file(COUNTERS).content_string.splitlines()
    entry = re.compile(r"DCGM_FI_(DEV|PROF|DRIVER)_\w+, (gauge|counter|label), [^,]+")
    assert [line for line in lines if line and not line.startswith("#") and not entry.fullmatch(line)] == []


@pytest.mark.needs("has_systemd")
def test_service_is_started_only_by_the_path_unit(host, expected):
    assert is_enabled(host, f"{UNIT}.service") == "disabled"
    wanted = "enabled" if expected.variables["dcgm_exporter_at_boot"] else "disabled"
    assert is_enabled(host, f"{UNIT}.path") == wanted
    shown = properties(host, f"{UNIT}.path", "Paths", "Unit")
    assert (shown["Unit"], "/dev/nvidia0" in shown["Paths"]) == (f"{UNIT}.service", True)


@pytest.mark.needs("has_systemd")
def test_units_are_valid(host):
    assert problems(host, f"{UNIT}.service", f"{UNIT}.path") == ""


@pytest.mark.needs("has_systemd")
def test_drop_in_overrides_the_unit(host, expected):
    shown = properties(host, f"{UNIT}.service", "ExecStart", "StandardOutput", "Restart")
    assert f"--address :{expected.variables['dcgm_exporter_port']} " in shown["ExecStart"]
    assert COUNTERS in shown["ExecStart"]
    assert (shown["StandardOutput"], shown["Restart"]) == ("journal", "on-failure")


@pytest.mark.needs("has_systemd")
def test_service_stays_inactive_without_a_gpu(host):
    if not host.file("/dev/nvidia0").exists:
        host.check_output("systemctl start %s.service", UNIT)
        state = properties(host, f"{UNIT}.service", "ActiveState", "ConditionResult")
        assert state == {"ActiveState": "inactive", "ConditionResult": "no"}


@pytest.mark.needs("gpu")
def test_exports_gpu_metrics(host, expected):
    assert "DCGM_FI_DEV_GPU_UTIL{" in scrape(host, expected.variables["dcgm_exporter_port"])
