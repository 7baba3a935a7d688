"""Checks of Open MPI: the pinned version, a job of two processes, libfabric enabled."""

import pytest
from checks import held, package_version

# localhost makes the job independent of the host name and network of the check container.
RUN = "mpirun --allow-run-as-root --oversubscribe --host localhost:2 -n 2 "


def test_packages_have_the_pinned_version(host, expected):
    versions = {name: package_version(host, name) for name in expected.variables["openmpi_packages"]}
    assert versions == dict.fromkeys(versions, expected.versions["openmpi"])


def test_packages_are_held(host, expected):
    assert [name for name in expected.variables["openmpi_packages"] if not held(host, name)] == []


def test_program_has_the_pinned_version(host, expected):
    assert (
        host.check_output("ompi_info --version")
        .splitlines()[0]
        .endswith(expected.versions["openmpi"].partition("-")[0])
    )


def test_job_runs_two_processes(host):
    run = host.run(RUN + "sh -c 'echo $OMPI_COMM_WORLD_RANK/$OMPI_COMM_WORLD_SIZE'")
    assert run.rc == 0, run.stderr
    assert sorted(run.stdout.split()) == ["0/2", "1/2"]


def test_a_failing_process_fails_the_job(host):
    assert host.run(RUN + "sh -c 'test $OMPI_COMM_WORLD_RANK = 0'").rc != 0


def test_job_runs_without_root(host):
    # Open MPI 5 crashes in a folder that its user may not enter, such as the home of another user.
    command = "cd /tmp && TMPDIR=/tmp HOME=/tmp mpirun --oversubscribe -n 2 true"
    run = host.run("su -s /bin/sh nobody -c %s", command)
    assert run.rc == 0, run.stderr


def is_old(expected):
    """Return True before Open MPI 5, which has other daemons and another shared-memory transport."""
    return int(expected.versions["openmpi"].partition(".")[0]) < 5


@pytest.mark.parametrize("component", ["mtl: ofi", "btl: tcp", "pml: cm", "pml: ob1"])
def test_mca_component_is_available(host, component):
    assert f"MCA {component} " in host.check_output("ompi_info")


def test_shared_memory_transport_is_available(host, expected):
    name = "vader" if is_old(expected) else "sm"
    assert f"MCA btl: {name} " in host.check_output("ompi_info")


def test_libfabric_components_are_enabled(host):
    # Debian's default parameters disable the MTL that uses libfabric.
    parameters = host.check_output("ompi_info --all --parsable").splitlines()
    assert "mca:mtl:ofi:param:mtl_ofi_provider_include:value:efa" in parameters
    assert "mca:mtl:base:param:mtl:value:" in parameters


def test_daemons_may_use_loopback(host, expected):
    if not is_old(expected):
        return
    excluded = "mca:oob:tcp:param:oob_tcp_if_exclude:value:"
    lines = host.check_output("ompi_info --all --parsable").splitlines()
    names = [line.removeprefix(excluded).split(",") for line in lines if line.startswith(excluded)]
    assert len(names) == 1
    assert "lo" not in names[0]
