"""Checks of the Neuron tools: the pinned version, in PATH of sessions."""

import pytest
from checks import held, package_version
from checks.neuron import matches_release

PACKAGE = "aws-neuronx-tools"


def test_package_is_pinned_and_held(host, expected):
    assert matches_release(expected.versions["neuron_tools"], package_version(host, PACKAGE))
    assert held(host, PACKAGE)


@pytest.mark.parametrize("name", ["neuron-ls", "neuron-top", "neuron-monitor", "nccom-test"])
def test_session_finds_the_program(host, name):
    assert host.check_output("bash -lc %s", f"command -v {name}") == f"/opt/aws/neuron/bin/{name}"


def test_path_has_no_empty_element(host):
    assert "" not in host.check_output("bash -lc 'echo $PATH'").split(":")


@pytest.mark.needs("neuron-device")
def test_devices_are_listed(host):
    assert host.check_output("/opt/aws/neuron/bin/neuron-ls --json-output").startswith("[")
