"""Checks of the image nvrx: a fault restarts the training inside its processes."""

import json

from checks.training import (  # noqa: F401
    AS_NOBODY,
    TRAIN,
    test_help_shows_an_example_and_the_exit_codes,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_start_without_torchrun_fails_with_a_one_line_error,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)


def test_fault_of_a_rank_restarts_the_training_in_its_processes(host):
    # No --max-restarts: torchrun would end if a process ended.
    command = (
        f"torchrun --standalone --nproc-per-node 2 {TRAIN} --smoke --device cpu --checkpoint-dir /tmp/nvrx"
    )
    ended = host.run(f"cd /opt/workload && OMP_NUM_THREADS=1 timeout 400 {AS_NOBODY} {command}")
    assert ended.rc == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert (result["restarts"], result["resumed_from_step"], result["finished"]) == (1, 40, True)
    assert result["last_loss"] < result["first_loss"] / 2
