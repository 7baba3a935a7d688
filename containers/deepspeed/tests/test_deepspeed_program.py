"""Checks of the image deepspeed: ZeRO trains on two ranks and survives the loss of one."""

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


def test_training_with_sharded_weights_resumes_after_a_rank_is_killed(host):
    assert smoke(host, "--device", "cpu", "--zero-stage", "3")["result"]["world_size"] == 2


def test_training_with_sharded_optimizer_succeeds(host):
    assert explained_end(host, "--smoke", "--device", "cpu", "--steps", "4", "--zero-stage", "1") == (0, [])


def test_configuration_that_deepspeed_rejects_gives_one_message(host):
    host.check_output("""printf '{"zero_optimization": {"reduce_bucket_size": -1}}' > /tmp/checked.json""")
    code, lines = explained_end(host, "--smoke", "--device", "cpu", "--deepspeed-config /tmp/checked.json")
    assert code == 78
    (line,) = lines
    assert line.startswith("error: DeepSpeed: ")
