"""Checks of the Neuron exporter: programs and Python modules, started only if there is a device."""

import pytest
from checks.exporters import is_enabled, problems, properties, scrape

FOLDER = "/opt/aws/neuron/bin"


@pytest.mark.parametrize("program", ["neuron-monitor", "neuron-monitor-prometheus.py"])
def test_program_is_executable(host, program):
    assert host.run("test -x %s/%s", FOLDER, program).rc == 0


def test_prometheus_client_is_a_system_package(host):
    program = "import prometheus_client; print(prometheus_client.__file__)"
    # A package installed by pip could break packages of the system.
    assert host.check_output("/usr/bin/python3 -I -c %s", program).startswith("/usr/lib/python3")


@pytest.mark.needs("has_systemd")
def test_service_is_started_only_by_the_path_unit(host, expected):
    assert is_enabled(host, "neuron_monitor.service") == "disabled"
    wanted = "enabled" if expected.variables["neuron_monitor_at_boot"] else "disabled"
    assert is_enabled(host, "neuron_monitor.path") == wanted


@pytest.mark.needs("has_systemd")
def test_units_are_valid(host):
    assert problems(host, "neuron_monitor.service", "neuron_monitor.path") == ""


@pytest.mark.needs("has_systemd")
def test_service_fails_if_either_program_fails(host):
    command = properties(host, "neuron_monitor.service", "ExecStart")["ExecStart"]
    assert "-o pipefail" in command


@pytest.mark.needs("has_systemd")
def test_service_stays_inactive_without_a_device(host):
    if host.run("ls /dev/neuron*").rc != 0:
        host.check_output("systemctl start neuron_monitor.service")
        state = properties(host, "neuron_monitor.service", "ActiveState", "ConditionResult")
        assert state == {"ActiveState": "inactive", "ConditionResult": "no"}


@pytest.mark.needs("neuron-device")
def test_exports_device_metrics(host, expected):
    assert "neuroncore" in scrape(host, expected.variables["neuron_monitor_port"])
