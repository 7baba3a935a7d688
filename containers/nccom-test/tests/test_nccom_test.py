"""Checks of the image nccom-test: the program starts; measurements need NeuronCores."""

import pytest

PROGRAM = "/opt/aws/neuron/bin/nccom-test"


def test_help_names_the_collectives(host):
    printed = host.run(f"{PROGRAM} --help")
    assert "allr" in printed.stdout + printed.stderr


@pytest.mark.needs("neuron-device")
def test_all_reduce_runs_on_two_neuron_cores(host):
    assert host.run(f"{PROGRAM} --nworkers 2 --minbytes 8 --maxbytes 512KB --datatype fp32 allr").rc == 0
