"""Checks of the image smp-modelparallel: SageMaker's library, training on CPUs, and on any GPUs."""

import pytest
from checks.training import AS_NOBODY, TRAIN, trained_with

FOUND = "import importlib.util as util; print(util.find_spec('torch.sagemaker') is not None)"


def test_help_shows_the_exit_codes(host):
    assert "65 data" in host.check_output(f"timeout 60 {AS_NOBODY} python3 {TRAIN} --help")


def test_sagemaker_library_is_installed(host):
    assert host.check_output("python3 -c %s", FOUND) == "True"


def test_two_processes_train_on_cpus(host):
    assert trained_with(host, "--device", "cpu")["backend"] == "gloo"


@pytest.mark.needs("gpu")
def test_training_runs_on_gpus(host):
    assert trained_with(host, "--shard-degree", "2")["device"] == "cuda"
