"""Checks of the image mosaicml-mpt: Composer trains on two ranks and survives the loss of one."""

import json

from checks.training import (  # noqa: F401
    AS_NOBODY,
    PYTHON,
    TRAIN,
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


def test_training_resumes_after_a_rank_is_killed(host):
    found = smoke(host, "--device", "cpu")["result"]
    assert found["world_size"] == 2
    sizes = host.check_output(f"timeout 60 {AS_NOBODY} {PYTHON} {TRAIN} --smoke --print-config")
    assert found["parameters"] == json.loads(sizes)["parameters"]


def test_step_of_microbatches_ends(host):
    options = ("--smoke", "--device", "cpu", "--steps", "4", "--batch-size", "4", "--microbatch-size", "2")
    assert explained_end(host, *options) == (0, [])
