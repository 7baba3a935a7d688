"""Checks of the Neuron collectives: the pinned version, with all its libraries."""

from checks import held, package_version
from checks.neuron import matches_release

PACKAGE = "aws-neuronx-collectives"


def test_package_is_pinned_and_held(host, expected):
    assert matches_release(expected.versions["neuron_collectives"], package_version(host, PACKAGE))
    assert held(host, PACKAGE)


def test_loader_finds_the_library(host):
    found = host.check_output("ldconfig -p | awk '$1 ~ /^libnccom[.]so/ {print $NF}'").split()
    assert {path.rpartition("/")[0] for path in found} == {"/opt/aws/neuron/lib"}
    for path in found:
        assert "not found" not in host.check_output("ldd %s", path)
