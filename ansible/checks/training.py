"""Checks for the images of all training programs, and helpers that run a training program in an image."""

import json

PYTHON = "/opt/venv/bin/python"
WORKLOAD = "/opt/workload"
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent"
TRAIN = f"{WORKLOAD}/train.py"


def smoke(host, *arguments, timeout_s=400):
    """Train, kill a rank after the first checkpoint, and return the outcome of the restarted training.

    The arguments are those of smoke.py, which passes arguments that it does not define to train.py.
    """
    words = " ".join(arguments)
    command = f"{PYTHON} {WORKLOAD}/smoke.py --timeout-s {timeout_s} {TRAIN} {words}"
    ended = host.run(f"timeout {timeout_s + 20} {AS_NOBODY} {command}")
    assert ended.rc == 0, ended.stderr
    outcome = json.loads(ended.stdout)
    result = outcome["result"]
    assert outcome["resumed_from_step"] > 0
    assert result["resumed_from_step"] == outcome["resumed_from_step"]
    assert result["restarts"] == 1
    assert result["last_loss"] < result["first_loss"] / 2
    assert result["throughput"] > 0
    return outcome


def trained_with(host, *arguments, timeout_s=400):
    """Train with two processes started by the image's torchrun; return the parsed result line."""
    words = f"{TRAIN} --smoke --checkpoint-dir /tmp/trained {' '.join(arguments)}"
    command = f"torchrun --standalone --nproc-per-node 2 {words}"
    ended = host.run(f"cd {WORKLOAD} && OMP_NUM_THREADS=1 timeout {timeout_s} {AS_NOBODY} {command}")
    assert ended.rc == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["last_loss"] < result["first_loss"] / 2
    return result


def import_errors(host, *modules):
    """Return what Python prints on stderr when it imports the named modules in the workload folder."""
    return host.run("cd %s && %s -c %s", WORKLOAD, PYTHON, f"import {', '.join(modules)}").stderr


def explained_end(host, *arguments, processes=2):
    """Run torchrun with 3 restarts; return its exit code and the error and traceback lines of stderr."""
    command = (
        f"torchrun --standalone --nproc-per-node {processes} --max-restarts 3 {TRAIN} {' '.join(arguments)}"
    )
    ended = host.run(f"cd {WORKLOAD} && OMP_NUM_THREADS=1 timeout 300 {AS_NOBODY} {command}")
    lines = [line for line in ended.stderr.splitlines() if line.startswith(("error", "Traceback"))]
    return ended.rc, lines


def test_python_command_is_that_of_the_virtual_environment(host):
    assert host.find_command("python") == PYTHON


def test_only_root_can_write_the_program(host):
    found = host.check_output(f"find {WORKLOAD} ! -user root -o -perm /002 ! -type l")
    assert found == ""


def test_help_shows_an_example_and_the_exit_codes(host):
    text = host.check_output(f"timeout 30 {AS_NOBODY} {PYTHON} {TRAIN} --help")
    assert "train.py --smoke" in text
    assert "65 data" in text


def test_torch_has_the_pinned_version(host, expected):
    found = host.check_output(f"{PYTHON} -c 'import torch; print(torch.__version__)'")
    pinned = expected.versions["torch"]
    assert (found if "+" in pinned else found.partition("+")[0]) == pinned


def test_torchrun_command_is_that_of_the_workload_folder(host):
    assert host.find_command("torchrun") == f"{WORKLOAD}/bin/torchrun"


def test_start_without_torchrun_fails_with_a_one_line_error(host):
    ended = host.run(f"timeout 200 {PYTHON} {TRAIN} --smoke")
    assert ended.rc == 78
    # Some libraries print warnings when they are imported.
    errors = [line for line in ended.stderr.splitlines() if line.startswith(("error", "Traceback"))]
    assert len(errors) == 1
    assert errors[0].startswith("error: this program must be started by torchrun")


def test_missing_data_stops_both_ranks_with_one_message_and_no_restart(host):
    code, lines = explained_end(host, "--smoke", "--device", "cpu", "--data", "/nonexistent")
    assert code == 65
    assert lines == ["error: /nonexistent: no such file or folder on this node"]
