"""Checks of the image nccom-test: the program starts; cores of Trainium are needed to measure."""

import pytest

PROGRAM = "/opt/aws/neuron/bin/nccom-test"


def test_help_names_the_collectives(host):
    printed = host.run(f"{PROGRAM} --help")
    assert "allr" in printed.stdout + printed.stderr


@pytest.mark.needs("neuron-device")
def test_two_cores_reduce(host):
    assert host.run(f"{PROGRAM} --nworkers 2 --minbytes 8 --maxbytes 512KB --datatype fp32 allr").rc == 0
