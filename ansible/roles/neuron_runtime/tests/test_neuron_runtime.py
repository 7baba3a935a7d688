"""Checks of the Neuron runtime: the pinned version, found by the loader."""

import pytest
from checks import held, package_version
from checks.neuron import matches_release

PACKAGE = "aws-neuronx-runtime-lib"


def test_package_is_pinned_and_held(host, expected):
    assert matches_release(expected.versions["neuron_runtime"], package_version(host, PACKAGE))
    assert held(host, PACKAGE)


def test_loader_finds_the_library(host):
    found = host.check_output("ldconfig -p | awk '$1 == \"libnrt.so.1\" {print $NF}'").split()
    assert [path.rpartition("/")[0] for path in found] == ["/opt/aws/neuron/lib"]
    assert "not found" not in host.check_output("ldd %s", found[0])


@pytest.mark.needs("neuron-device")
def test_device_exists(host):
    assert host.run("ls /dev/neuron0").rc == 0
