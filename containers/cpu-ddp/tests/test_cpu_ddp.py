"""Checks of the image cpu-ddp: the program starts and survives the loss of a rank."""

from checks.training import (  # noqa: F401
    import_errors,
    smoke,
    test_help_shows_an_example_and_the_exit_codes,
    test_missing_data_stops_both_ranks_with_one_message_and_no_restart,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_start_without_torchrun_fails_with_a_one_line_error,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)

PYTHON = "/opt/venv/bin/python"


def test_torch_is_built_with_gloo(host):
    available = host.check_output(
        f"{PYTHON} -c 'import torch.distributed as dist; print(dist.is_gloo_available())'"
    )
    assert available == "True"


def test_modules_can_be_imported(host):
    assert import_errors(host, "classifier", "smoke", "train", "training.loop") == ""


def test_training_resumes_after_a_rank_is_killed(host):
    assert smoke(host, "--device", "cpu")["result"]["world_size"] == 2
