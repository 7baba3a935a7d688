"""Checks of the image optimum-neuron: the program starts with the libraries of the vendor's image."""

import pytest


def test_finetuning_program_prints_its_options(host):
    printed = host.check_output("timeout 300 python3 /opt/workload/finetune.py --help")
    assert {"--model", "--data", "--tensor_parallel_size"} <= set(printed.split())


@pytest.mark.needs("neuron-device")
def test_neuron_device_is_found(host):
    assert host.run("neuron-ls").rc == 0
