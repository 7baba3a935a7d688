"""Checks of the image neuronx-distributed: training on CPUs; the rest needs cores of Trainium."""

import json

import pytest

TRAIN = "/opt/workload/train.py"
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp"


def test_help_shows_the_exit_codes(host):
    assert "65 data" in host.check_output(f"timeout 60 {AS_NOBODY} python3 {TRAIN} --help")


def test_modules_of_the_program_can_be_imported(host):
    assert host.run("cd /opt/workload && python3 -c 'import neuron'").rc == 0


def test_two_processes_train_on_cpus(host):
    command = f"torchrun --standalone --nproc-per-node 2 {TRAIN} --smoke --device cpu --checkpoint-dir /tmp/c"
    ended = host.run(f"cd /opt/workload && OMP_NUM_THREADS=1 timeout 400 {AS_NOBODY} {command}")
    assert ended.rc == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["last_loss"] < result["first_loss"] / 2


@pytest.mark.needs("neuron-device")
def test_two_cores_train(host):
    command = f"torchrun --standalone --nproc-per-node 2 {TRAIN} --smoke --checkpoint-dir /tmp/neuron"
    ended = host.run(f"cd /opt/workload && timeout 1800 {AS_NOBODY} {command}")
    assert json.loads(ended.stdout.splitlines()[-1])["finished"] is True
