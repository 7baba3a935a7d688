"""Checks of the image jax: the program trains on two devices and survives the loss of a process."""

import json

from checks.training import (  # noqa: F401
    AS_NOBODY,
    PYTHON,
    WORKLOAD,
    smoke,
    test_help_shows_an_example_and_the_exit_codes,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
)


def train(host, arguments):
    return host.run(f"cd {WORKLOAD} && timeout 300 {AS_NOBODY} {PYTHON} train.py --smoke {arguments}")


def test_jax_has_the_pinned_version(host, expected):
    found = host.check_output(f"{PYTHON} -c 'import jax; print(jax.__version__)'")
    assert found == expected.versions["jax"]


def test_one_process_trains_on_two_devices(host):
    ended = train(host, "--device cpu --steps 20")
    assert ended.rc == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert (result["world_size"], result["backend"]) == (1, "2 devices")
    assert result["last_loss"] < result["first_loss"]


def test_training_of_two_processes_resumes_after_one_is_killed(host):
    outcome = smoke(host, "--launcher", "workers", "--device", "cpu", "--cpu-devices", "1")
    assert outcome["result"]["world_size"] == 2


def test_missing_data_end_the_program_with_one_message(host):
    ended = train(host, "--data /nonexistent")
    assert ended.rc == 65
    errors = [line for line in ended.stderr.splitlines() if line.startswith(("error", "Traceback"))]
    assert errors == ["error: /nonexistent: no such file or folder on this node"]
