"""Checks of the image param-benchmark: all collectives give right results on two ranks."""

import re

from checks.training import (  # noqa: F401
    AS_NOBODY,
    WORKLOAD,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)

COLLECTIVES = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce"}


def test_all_collectives_give_right_results_and_print_measurements(host):
    command = "torchrun --standalone --nproc-per-node 2 comms.py --smoke"
    ended = host.run(f"cd {WORKLOAD} && OMP_NUM_THREADS=1 timeout 300 {AS_NOBODY} {command}")
    assert ended.rc == 0, ended.stderr
    rows = re.findall(r"COMMS-RES-(\w+) +(\d+)", ended.stdout)
    assert {name for name, _ in rows} == COLLECTIVES
    assert [size for name, size in rows if name == "all_reduce"] == ["1024", "8192", "65536"]
