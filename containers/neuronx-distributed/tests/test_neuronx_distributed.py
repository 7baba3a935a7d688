"""Checks of the image neuronx-distributed: training on CPUs, and on NeuronCores if there are any."""

import pytest
from checks.training import AS_NOBODY, TRAIN, WORKLOAD, trained_with


def test_help_shows_the_exit_codes(host):
    assert "65 data" in host.check_output(f"timeout 60 {AS_NOBODY} python3 {TRAIN} --help")


def test_modules_of_the_program_can_be_imported(host):
    assert host.run("cd %s && python3 -c 'import neuron'", WORKLOAD).rc == 0


def test_two_processes_train_on_cpus(host):
    assert trained_with(host, "--device", "cpu")["backend"] == "gloo"


@pytest.mark.needs("neuron-device")
def test_training_runs_on_neuron_cores(host):
    assert trained_with(host, timeout_s=1800)["device"] == "xla"
