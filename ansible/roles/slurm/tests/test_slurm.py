"""Checks of Slurm: the pinned release from a single source, its programs, no munge key in the image."""

import pytest
from checks import held, package_version

FOLDERS = ("/opt/slurm/bin", "/opt/aws/pcs/scheduler/slurm-*/bin", "/usr/bin")


def find_programs(host, name):
    return host.run("ls -d " + " ".join(f"{folder}/{name}" for folder in FOLDERS)).stdout.split()


@pytest.fixture
def release_of(host):
    """Return a function that reads a Slurm program's release; for that, the program needs a configuration."""
    host.check_output("printf 'ClusterName=probe\\nSlurmctldHost=localhost\\n' > /tmp/probe-slurm.conf")
    yield lambda path: host.check_output("SLURM_CONF=/tmp/probe-slurm.conf %s --version", path).split()[-1]
    host.check_output("rm /tmp/probe-slurm.conf")


def from_the_archive(host):
    return find_programs(host, "sinfo") == ["/usr/bin/sinfo"]


def test_release_matches_the_pin(host, expected, release_of):
    releases = [release_of(path) for path in find_programs(host, "sinfo")]
    assert expected.versions["slurm"].partition("-")[0] in releases


def test_slurm_is_installed_only_once(host):
    # Programs of different releases may use incompatible protocols.
    folders = {path.split("/bin/")[0] for path in find_programs(host, "sinfo")}
    assert len({folder for folder in folders if not folder.startswith("/opt/aws/pcs")}) <= 1
    assert folders == {"/usr"} or "/usr" not in folders


def test_packages_are_held(host, expected):
    if from_the_archive(host):
        for package in expected.variables["slurm_packages"]:
            assert package_version(host, package) == expected.versions["slurm"]
            assert held(host, package)


@pytest.mark.parametrize("program", ["sbatch", "scontrol", "sinfo", "squeue", "srun"])
def test_program_is_installed(host, program):
    assert find_programs(host, program)


def test_plugin_headers_are_installed(host):
    for path in find_programs(host, "sinfo"):
        assert host.file(path.removesuffix("/bin/sinfo") + "/include/slurm/spank.h").is_file


def test_srun_finds_its_libraries(host):
    for path in find_programs(host, "srun"):
        assert "not found" not in host.check_output("ldd %s", path)


def test_image_has_no_munge_key(host):
    if from_the_archive(host):
        assert not host.file("/etc/munge/munge.key").exists


@pytest.mark.needs("has_systemd")
def test_munge_starts_only_with_a_key(host):
    if from_the_archive(host):
        unit = host.check_output("systemctl cat munge")
        assert "ConditionPathExists=/etc/munge/munge.key" in unit.splitlines()
        assert host.check_output("systemctl is-enabled munge") == "enabled"
        assert host.run("systemctl is-active munge").stdout.strip() == "inactive"
