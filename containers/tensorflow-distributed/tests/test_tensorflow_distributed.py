"""Checks of the image tensorflow-distributed: two workers train and survive the loss of one."""

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


def train(host, arguments, *, environment=""):
    command = f"{AS_NOBODY} {environment} {PYTHON} train.py --smoke --device cpu {arguments}"
    return host.run(f"cd {WORKLOAD} && timeout 300 {command}")


def errors(ended):
    return [line for line in ended.stderr.splitlines() if line.startswith(("error", "Traceback"))]


def test_tensorflow_has_the_pinned_version(host, expected):
    found = host.check_output(f"{PYTHON} -c 'import tensorflow; print(tensorflow.__version__)' 2>/dev/null")
    pins = [expected.versions.get(name) for name in ("tensorflow", "tensorflow-cpu")]
    assert found in pins


def test_one_worker_trains(host):
    ended = train(host, "--steps 20")
    assert ended.rc == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert (result["world_size"], result["backend"]) == (1, "1 replicas")
    assert result["last_loss"] < result["first_loss"]


def test_training_of_two_workers_resumes_after_one_is_killed(host):
    outcome = smoke(host, "--launcher", "workers", "--device", "cpu")
    assert outcome["result"]["world_size"] == 2


def test_missing_data_end_the_program_with_one_message(host):
    ended = train(host, "--data /nonexistent")
    assert (ended.rc, errors(ended)) == (65, ["error: /nonexistent: no such file or folder on this node"])


def test_invalid_tf_config_is_refused(host):
    ended = train(host, "", environment="TF_CONFIG={}")
    assert ended.rc == 78
    assert errors(ended) == ["error: TF_CONFIG is not a cluster of workers with a task: {}"]
