"""Checks of the image picotron: data, tensor and pipeline parallelism, and a pipeline that loses a rank."""

import json

from checks.training import (  # noqa: F401
    AS_NOBODY,
    PYTHON,
    TRAIN,
    WORKLOAD,
    explained_end,
    smoke,
    test_help_shows_an_example_and_the_exit_codes,
    test_missing_data_stops_both_ranks_with_one_message_and_no_restart,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_start_without_torchrun_fails_with_a_one_line_error,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)


def test_pipeline_resumes_after_a_rank_is_killed(host):
    assert smoke(host, "--device", "cpu")["result"]["world_size"] == 2


def last_loss(host, ranks, words):
    """Return the loss after 20 steps."""
    options = f"--smoke --device cpu --steps 20 {words}"
    command = f"torchrun --standalone --nproc-per-node {ranks} {TRAIN} {options}"
    done = host.run(f"cd {WORKLOAD} && OMP_NUM_THREADS=1 timeout 300 {AS_NOBODY} {command}")
    assert done.rc == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(line)["last_loss"]


def test_loss_does_not_depend_on_the_parallelism(host):
    one = last_loss(host, 1, "--pipeline-parallel 1")
    for ranks, words in (
        (2, "--pipeline-parallel 1 --tensor-parallel 2"),
        (2, "--pipeline-parallel 2 --pipeline-engine afab"),
        (4, "--pipeline-parallel 2 --tensor-parallel 2"),
    ):
        assert abs(last_loss(host, ranks, words) - one) < 1e-3, words
    two = last_loss(host, 2, "--pipeline-parallel 1 --data-parallel 2")
    assert abs(last_loss(host, 4, "--data-parallel 2") - two) < 1e-3
    assert abs(two - one) > 1e-3, "replicas read other samples"


def test_training_accepts_the_run_file_of_create_config(host):
    words = "--out_dir /tmp/runs --exp_name tp2 --tp 2 --model_name toy --seq_len 32 --mbs 2 --use_cpu"
    made = host.check_output(f"cd {WORKLOAD} && {PYTHON} create_config.py {words} --total_train_steps 2")
    host.check_output("chmod -R a+rwX /tmp/runs")
    assert explained_end(host, "--config", made) == (0, [])


def test_grid_that_does_not_fit_the_ranks_gives_one_message(host):
    code, lines = explained_end(host, "--smoke", "--device", "cpu", "--data-parallel", "2")
    assert code == 78
    assert lines == [
        "error: --tensor-parallel 1 x --pipeline-parallel 2 x --data-parallel 2 is not the number of ranks, 2"
    ]
