"""The exporter of Neuron metrics: the vendor's programs have what they import, started by a device alone."""

import pytest
from checks.exporters import is_enabled, problems, properties, scrape

FOLDER = "/opt/aws/neuron/bin"


@pytest.mark.parametrize("program", ["neuron-monitor", "neuron-monitor-prometheus.py"])
def test_programs_of_the_tools_are_there(host, program):
    assert host.run("test -x %s/%s", FOLDER, program).rc == 0


def test_what_the_exporter_imports_is_there(host):
    program = "import prometheus_client; print(prometheus_client.__file__)"
    # From the system's packages: what pip puts beside them breaks what they need.
    assert host.check_output("/usr/bin/python3 -I -c %s", program).startswith("/usr/lib/python3")


@pytest.mark.needs("has_systemd")
def test_device_starts_it_and_nothing_else(host, expected):
    assert is_enabled(host, "neuron_monitor.service") == "disabled"
    wanted = "enabled" if expected.variables["neuron_monitor_at_boot"] else "disabled"
    assert is_enabled(host, "neuron_monitor.path") == wanted


@pytest.mark.needs("has_systemd")
def test_units_are_sound(host):
    assert problems(host, "neuron_monitor.service", "neuron_monitor.path") == ""


@pytest.mark.needs("has_systemd")
def test_failure_of_either_program_is_one_of_the_service(host):
    command = properties(host, "neuron_monitor.service", "ExecStart")["ExecStart"]
    assert "-o pipefail" in command


@pytest.mark.needs("has_systemd")
def test_without_a_device_it_stays_down(host):
    if host.run("ls /dev/neuron*").rc != 0:
        host.check_output("systemctl start neuron_monitor.service")
        state = properties(host, "neuron_monitor.service", "ActiveState", "ConditionResult")
        assert state == {"ActiveState": "inactive", "ConditionResult": "no"}


@pytest.mark.needs("neuron-device")
def test_real_metrics(host, expected):
    assert "neuroncore" in scrape(host, expected.variables["neuron_monitor_port"])
