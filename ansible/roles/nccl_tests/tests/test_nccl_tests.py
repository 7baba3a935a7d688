"""Checks of the NCCL benchmarks: built from the locked commit, complete, usable by all users."""

import pytest

FOLDER = "/opt/nccl-tests/bin"
PROGRAMS = ("all_gather_perf", "all_reduce_perf", "alltoall_perf", "reduce_scatter_perf", "sendrecv_perf")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_user_can_run_the_program(host, name):
    assert host.run("su -s /bin/sh nobody -c %s", f"test -x {FOLDER}/{name}").rc == 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_finds_its_libraries(host, name):
    lines = host.check_output("ldd %s", f"{FOLDER}/{name}").splitlines()
    assert [line for line in lines if "not found" in line and "libcuda.so.1" not in line] == []


def test_programs_are_built_from_the_locked_commit(host, expected):
    commit = expected.variables["nccl_tests_downloads"]["source"]["commit"]
    assert host.file("/opt/nccl-tests/built-with").content_string.split()[0] == commit


def test_programs_are_linked_with_mpi(host, expected):
    library = host.check_output("ldd %s", f"{FOLDER}/all_reduce_perf")
    folder = expected.variables["nccl_tests_mpi"]
    assert f"=> {folder}/lib" in library


def test_build_files_are_removed(host):
    assert host.run("find /opt/nccl-tests -name '*.o' -o -name '*.cu' -o -name .git").stdout == ""


@pytest.mark.needs("gpu")
def test_all_reduce_gives_correct_results(host):
    run = host.run("%s -b 8 -e 128M -f 2 -g $(nvidia-smi -L | wc -l)", f"{FOLDER}/all_reduce_perf")
    assert run.rc == 0
    assert "Out of bounds values : 0 OK" in run.stdout


@pytest.mark.needs("gpu", "efa-device", "peer")
def test_two_nodes_all_reduce_over_efa(host, expected):
    """`peer` is USER@ADDRESS of a second machine with the same image; USER can log in there by SSH."""
    user, _, address = expected.capabilities["peer"].partition("@")
    gpus = host.check_output("nvidia-smi -L | wc -l")
    mpirun = f"{expected.variables['nccl_tests_mpi']}/bin/mpirun"
    # Bridges of container runtimes have the same address on both machines.
    options = (
        "--mca btl_tcp_if_exclude lo,docker0 --mca oob_tcp_if_exclude lo,docker0"
        " -x NCCL_SOCKET_IFNAME=^lo,docker -x NCCL_DEBUG=INFO"
    )
    command = (
        f"{mpirun} --host $(hostname):{gpus},{address}:{gpus} {options}"
        f" {FOLDER}/all_reduce_perf -b 8 -e 128M -f 2 -g 1"
    )
    run = host.run("runuser --login %s --command %s", user, command)
    assert run.rc == 0, run.stdout + run.stderr
    assert "Out of bounds values : 0 OK" in run.stdout
    assert "selected provider is efa" in (run.stdout + run.stderr).lower()
