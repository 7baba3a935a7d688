"""Checks of pyxis: a plugin for each release of Slurm, loaded alongside the plugins of the base image."""

import re

import pytest

PREFIX = "/opt/pyxis"
SLURMS = ("/opt/slurm", "/opt/aws/pcs/scheduler/slurm-*", "/usr")
# Slurm's clients need a cluster configuration; this one only includes the plugins of the image.
PROBE = "/tmp/probe-slurm.conf"
SETTINGS = "ClusterName=probe\\nSlurmctldHost=localhost\\nPlugStackConfig=%s/plugstack.conf\\n"


def list_slurms(host):
    found = host.run("ls -d " + " ".join(f"{slurm}/include/slurm/spank.h" for slurm in SLURMS)).stdout.split()
    return [path.removesuffix("/include/slurm/spank.h") for path in found]


def settings_of(slurm):
    return {"/usr": "/etc/slurm", "/opt/slurm": "/opt/slurm/etc"}.get(slurm, slurm.replace("/opt", "/etc", 1))


@pytest.fixture
def probe(host):
    """Return a function that runs a program of a Slurm installation."""

    def run(slurm, program, option):
        host.check_output(f"printf '{SETTINGS}' > {PROBE}", settings_of(slurm))
        return host.run(f"SLURM_CONF={PROBE} %s/bin/%s %s", slurm, program, option)

    yield run
    host.check_output("rm -f %s", PROBE)


def test_each_slurm_has_a_plugin_for_its_release(host, expected, probe):
    releases = [probe(slurm, "sinfo", "--version").stdout.split()[-1] for slurm in list_slurms(host)]
    wanted = {f"{PREFIX}/{expected.versions['pyxis']}/slurm-{release}" for release in releases}
    found = host.check_output("find %s -mindepth 2 -maxdepth 2", PREFIX).split()
    assert wanted
    assert set(found) == wanted


def test_slurm_loads_the_plugin(host, probe):
    # srun fails if a required plugin is built for another release.
    for slurm in list_slurms(host):
        run = probe(slurm, "srun", "--help")
        assert run.rc == 0, run.stderr
        assert "--container-image" in run.stdout


def test_plugstack_includes_the_plugin_folder_once(host):
    for slurm in list_slurms(host):
        lines = host.file(f"{settings_of(slurm)}/plugstack.conf").content_string.splitlines()
        assert len([line for line in lines if re.match(r"\s*include\s+\S*plugstack\.conf\.d/", line)]) == 1


def test_listed_plugins_exist(host):
    # No job starts if plugstack.conf requires a missing plugin, even one that the base image lists.
    for slurm in list_slurms(host):
        text = host.check_output(
            "cat %s/plugstack.conf %s/plugstack.conf.d/*", settings_of(slurm), settings_of(slurm)
        )
        named = re.findall(r"^\s*required\s+(/\S+)", text, re.MULTILINE)
        assert f"{PREFIX}/" in " ".join(named)
        for path in named:
            assert host.file(path).is_file, path


def test_plugin_finds_its_libraries(host):
    for path in host.check_output("find %s -name spank_pyxis.so", PREFIX).split():
        assert "not found" not in host.check_output("ldd %s", path)
        assert (host.file(path).user, host.file(path).mode) == ("root", 0o644)


def test_slurmd_path_has_scontrol(host):
    # enroot's hooks inherit PATH from slurmd.
    drop_in = host.file("/etc/systemd/system/slurmd.service.d/image-path.conf")
    path = (
        re.search(r"PATH=(\S+)", drop_in.content_string).group(1) if drop_in.exists else "/usr/sbin:/usr/bin"
    )
    assert "" not in path.split(":")
    if "/opt/slurm" in list_slurms(host) or "/usr" in list_slurms(host):
        assert host.run("PATH=%s command -v scontrol", path).rc == 0


def test_build_files_are_removed(host):
    assert host.run("ls -d /tmp/pyxis* /root/pyxis* /usr/local/lib/slurm").stdout == ""
