"""Checks of the image nsight: a rank under the profiler writes a report and ends with the program's code."""

import pytest

AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp"
STARTER = "/opt/venv/bin/python /opt/workload/profiled.py"


def test_program_under_the_profiler_writes_a_report(host):
    program = "/tmp/program.py"
    host.check_output("printf 'import sys; sys.exit(7)' > %s", program)
    options = "--output-dir /tmp --delay 0 --trace none"
    ended = host.run(f"cd /tmp && timeout 200 {AS_NOBODY} {STARTER} {options} {program}")
    assert ended.rc == 7
    assert host.file("/tmp/rank-0.nsys-rep").exists


def test_other_ranks_run_without_the_profiler(host):
    program = "/tmp/parent.py"
    host.check_output("printf 'import os; print(open(f\"/proc/{os.getppid()}/comm\").read())' > %s", program)
    ended = host.run(f"cd /tmp && RANK=1 timeout 60 {AS_NOBODY} {STARTER} {program}")
    assert "nsys" not in ended.stdout


@pytest.mark.needs("gpu")
def test_kernels_are_traced(host):
    options = "--output-dir /tmp --delay 0 --duration 20 train.py --smoke"
    assert (
        host.run(f"cd /opt/workload && torchrun --standalone --nproc-per-node 1 profiled.py {options}").rc
        == 0
    )
