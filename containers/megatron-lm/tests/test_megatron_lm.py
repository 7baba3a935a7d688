"""Checks of the image megatron-lm: tensor-parallel training survives the loss of a rank."""

from checks.training import (  # noqa: F401
    PYTHON,
    explained_end,
    smoke,
    test_help_shows_an_example_and_the_exit_codes,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_start_without_torchrun_fails_with_a_one_line_error,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)


def test_tensor_parallel_training_resumes_after_a_rank_is_killed(host):
    assert smoke(host, "--device", "cpu")["result"]["world_size"] == 2


def test_tensor_parallel_degree_that_does_not_divide_the_ranks_gives_one_message(host):
    code, lines = explained_end(host, "--smoke", "--device", "cpu", "--tensor-parallel", "3")
    assert code == 78
    assert lines == ["error: --tensor-parallel 3 does not divide the 2 ranks"]


def test_dataset_helpers_are_compiled(host):
    modules = "import megatron.core.datasets.helpers_cpp"
    assert host.run("%s -c %s", PYTHON, modules).rc == 0
