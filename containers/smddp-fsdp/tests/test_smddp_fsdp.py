"""Checks of the image smddp-fsdp: its library smddp, and training on CPUs and, if there are any, on GPUs."""

import pytest
from checks.training import AS_NOBODY, TRAIN, trained_with

FOUND = "import importlib.util as util; print(util.find_spec('smdistributed.dataparallel') is not None)"


def test_help_shows_the_exit_codes(host):
    assert "65 data" in host.check_output(f"timeout 60 {AS_NOBODY} python3 {TRAIN} --help")


def test_smddp_library_is_installed(host):
    assert host.check_output("python3 -c %s", FOUND) == "True"


def test_two_processes_train_on_cpus(host):
    assert trained_with(host, "--device", "cpu")["backend"] == "gloo"


@pytest.mark.needs("gpu")
def test_training_runs_on_gpus(host):
    assert trained_with(host)["device"] == "cuda"
