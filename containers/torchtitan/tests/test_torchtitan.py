"""Checks of the image torchtitan: torchtitan's model trains on two ranks and survives the loss of one."""

from checks.training import (  # noqa: F401
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


def test_fully_sharded_training_resumes_after_a_rank_is_killed(host):
    assert smoke(host, "--device", "cpu")["result"]["world_size"] == 2


def test_tensor_parallel_training_succeeds(host):
    code, lines = explained_end(host, "--smoke", "--device", "cpu", "--steps", "4", "--tensor-parallel", "2")
    assert (code, lines) == (0, [])


def test_sequence_length_that_torchtitan_cannot_split_gives_one_message(host):
    code, lines = explained_end(host, "--smoke", "--device", "cpu", "--sequence-length", "63")
    assert code == 78
    assert lines == ["error: --sequence-length 63 is not a multiple of 2, 2 x --tensor-parallel"]
