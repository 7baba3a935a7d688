"""Checks of the image stable-diffusion: training survives the loss of a rank; encode.py needs images."""

from checks.training import (  # noqa: F401
    AS_NOBODY,
    PYTHON,
    WORKLOAD,
    smoke,
    test_help_shows_an_example_and_the_exit_codes,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_start_without_torchrun_fails_with_a_one_line_error,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)


def test_training_resumes_after_a_rank_is_killed(host):
    assert smoke(host, "--device", "cpu")["result"]["throughput_unit"].startswith("images")


def test_encoder_refuses_a_folder_without_images(host):
    ended = host.run(f"{AS_NOBODY} {PYTHON} {WORKLOAD}/encode.py /tmp /tmp/out --vae none")
    assert ended.rc == 1
    assert ended.stderr.startswith("error: /tmp: no folder with images")
