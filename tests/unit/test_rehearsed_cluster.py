"""The rehearsed Slurm cluster: configuration, users and refused options (tests/launch runs jobs)."""

import re
from pathlib import Path

import pytest

from builder import catalog
from builder.app.cluster import SYSTEMS
from builder.cli.main import main
from builder.rehearsal import slurm

NAMES = ["node-1", "node-2"]


def config(root: Path, instance: str, *, is_head: bool = False, release: int = 12) -> dict[str, slurm.File]:
    found = catalog.load(root).instances[instance]
    return {file.path: file for file in slurm.machine_files(found, NAMES, is_head=is_head, release=release)}


def settings(files: dict[str, slurm.File]) -> str:
    return files["etc/slurm/slurm.conf"].content


def test_slurm_nodes_declare_the_counts_of_their_instance_type(root: Path) -> None:
    files = config(root, "p5.48xlarge")
    line = (
        "NodeName=node-1,node-2 CPUs=192 Sockets=1 CoresPerSocket=96 ThreadsPerCore=2 RealMemory=2097152"
        " Gres=gpu:h100:8\n"
    )
    assert line in settings(files)
    assert files["etc/slurm/gres.conf"].content.endswith("Name=gpu Type=h100 File=/dev/nvidia[0-7]\n")
    devices = files["etc/systemd/system/slurmd.service.d/devices.conf"].content
    assert re.findall(r"mknod -m 666 /dev/nvidia(\d) c 195 (\d)", devices) == [
        (str(i), str(i)) for i in range(8)
    ]


def test_nodes_without_gpus_have_no_gpu_settings(root: Path) -> None:
    files = config(root, "hpc7a.96xlarge")
    assert "Sockets=1 CoresPerSocket=192 ThreadsPerCore=1" in settings(files)
    assert not any("gres" in path or "devices" in path for path in files)
    assert not re.search("gres|gpu", settings(files), re.IGNORECASE)


@pytest.mark.parametrize("instance", ["p5.4xlarge", "g7e.8xlarge"])
def test_instance_types_with_one_gpu_have_one_gpu_device(root: Path, instance: str) -> None:
    assert "File=/dev/nvidia0\n" in config(root, instance)["etc/slurm/gres.conf"].content


def test_gpu_names_of_all_instance_types_are_valid_in_slurm(root: Path) -> None:
    for instance in catalog.load(root).instances.values():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", slurm.gpu_type(instance)), instance.name


def test_head_starts_only_slurmctld_and_nodes_start_only_slurmd(root: Path) -> None:
    for is_head, service in ((True, "slurmctld"), (False, "slurmd")):
        files = config(root, "p5.48xlarge", is_head=is_head).values()
        assert [file.target for file in files if file.target] == [f"/lib/systemd/system/{service}.service"]
    assert settings(config(root, "p5.48xlarge")) == settings(config(root, "p5.48xlarge", is_head=True))


def test_cgroup_plugin_of_slurm_depends_on_the_debian_release(root: Path) -> None:
    for release, line in ((12, "CgroupPlugin=cgroup/v1\n"), (13, "CgroupPlugin=disabled\n")):
        assert line in config(root, "c5n.metal", release=release)["etc/slurm/cgroup.conf"].content


def test_jobs_run_as_the_user_who_starts_the_cluster() -> None:
    passwd, group = "root:x:0:0:root:/root:/bin/bash\n", "root:x:0:\n"
    assert slurm.with_user(passwd, group, 0, 0) == (passwd, group)
    found = slurm.with_user(passwd, group, 1234, 0)
    assert found == (f"{passwd}builder:x:1234:0::/fsx:/bin/bash\n", group)
    assert slurm.with_user(passwd, group, 0, 7)[1] == f"{group}builder:x:7:\n"


def test_systems_of_rehearsed_clusters_can_be_bootstrapped(root: Path) -> None:
    systems = catalog.load(root).systems
    assert all(systems[name].bootstrap and systems[name].release.isdigit() for name in SYSTEMS)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "builder rehearse cluster: no action given (available: up, down, status, exec)"),
        ("dwon", 2, "builder rehearse cluster: no action 'dwon' (did you mean 'down'?)"),
        ("up", 2, "the following arguments are required: --instance"),
        ("up --instance p5.48", 2, "--instance: no EC2 type 'p5.48' in catalog/instances.toml"),
        ("up --instance p6e-gb200.36xlarge", 8, "p6e-gb200.36xlarge: ram_gib is unknown, and jobs need it"),
        ("up --instance hpc7g.16xlarge", 8, "cannot run its programs"),
        ("up --instance p5.48xlarge --nodes 17", 2, "must be a number from 1 to 16, not '17'"),
        ("up --instance p5.48xlarge --nodes 0", 2, "must be a number from 1 to 16, not '0'"),
        ("up --instance p5.48xlarge --nodes 12345", 2, "must be a number from 1 to 16, not '12345'"),
        ("up --instance p5.48xlarge --system rocky-9", 2, "no machine image with Slurm for 'rocky-9'"),
        ("exec", 2, "no command after --"),
    ],
)
def test_cluster_command_refuses_bad_input(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path))
    rest = [*words.split(), "--root", str(root)] if words and words != "dwon" else words.split()
    assert main(["rehearse", "cluster", *rest]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("error: ")) == ("", 1)
    assert message in err
