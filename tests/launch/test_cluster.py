"""Launch files on a rehearsed Slurm cluster: jobs on two nodes, failed and rejected jobs, cleanup."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.engine.client import Engine
from builder.app.launching import text_of
from builder.marks import CLUSTER_LABEL
from builder.wait import until
from tests.support.launching import create_site, make_file

pytestmark = [pytest.mark.launch, pytest.mark.engine]

BOUND_S = 1800
JOB_S = 600
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")  # states of ended jobs
# Target that runs on two nodes → a pattern of the output of the first rank.
PROGRAMS = {
    "param-benchmark": r"COMMS-RES-reduce +65536 ",
    "cpu-ddp": r'"world_size": 2',
    "jax": r'"world_size": 2',
}


@dataclass
class Program:
    """The `builder` program with its own BUILDER_HOME and registry."""

    root: Path
    environment: dict[str, str]
    folder: Path
    clusters: list[str] = field(default_factory=list)

    def call(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.argv(*words),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )

    def argv(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "builder.cli.main", *map(str, words)]

    def done(self, *words: str | Path) -> str:
        done = self.call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self, name: str, instance: str) -> Path:
        """Start a cluster with two nodes, and return its shared folder."""
        self.clusters.append(name)
        words = ("--name", name, "--instance", instance, "--shared", self.folder / name)
        return Path(self.done("rehearse", "cluster", "up", *words).strip())

    def on_head(self, name: str, *command: str) -> "subprocess.CompletedProcess[str]":
        return self.call("rehearse", "cluster", "exec", "--name", name, "--", *command)

    def submitted(self, name: str, *words: str) -> str:
        """Submit a job and return its number."""
        done = self.on_head(name, "sbatch", *words)
        found = re.search(r"Submitted batch job (\d+)", done.stdout)
        assert found, done.stdout + done.stderr
        return found[1]

    def at_end(self, name: str, job: str) -> str:
        """Wait until a job has ended; return its record as `scontrol show job` prints it.

        The state comes from the same answer: a busy controller may not answer a second call.
        """

        def ended() -> str:
            text = self.on_head(name, "scontrol", "--oneliner", "show", "job", job).stdout
            found = re.search(r"JobState=(\w+)", text)
            return text if found and found[1] in ENDS else ""

        return until(ended, timeout_s=JOB_S, every_s=0.5)


@pytest.fixture(scope="module")
def program(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("cluster")
    found = Program(root, os.environ | {"BUILDER_HOME": str(folder / "home"), "NO_COLOR": "1"}, folder)
    try:
        yield found
    finally:
        for name in found.clusters:
            found.call("rehearse", "cluster", "down", "--name", name)
        found.call("registry", "down")


@pytest.fixture(scope="module")
def unpacked(program: Program) -> tuple[str, Path]:
    """Name of a cluster, and its shared folder with the unpacked squashfs image of each PROGRAMS entry."""
    program.done("registry", "up")
    program.done("build", *PROGRAMS, "--flavour", "cpu", "--publish")
    shared = program.up("jobs", "m7i.4xlarge")
    for target in PROGRAMS:
        file = program.done("squashfs", target, "--flavour", "cpu", "-o", program.folder).strip()
        subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-d", shared / target, file], check=True)
    return "jobs", shared


def rendered(program: Program, target: str, shared: Path) -> str:
    """Write a launch file for two nodes into the shared folder; return the name of the file."""
    words = ("--on", "slurm", "--instance", "m7i.4xlarge", "--nodes", "2", "--runtime", "none", "-o", shared)
    return Path(program.done("launch", target, "--flavour", "cpu", *words).strip()).name


@pytest.mark.parametrize("target", PROGRAMS)
def test_a_rendered_job_runs_on_two_nodes(program: Program, unpacked: tuple[str, Path], target: str) -> None:
    name, shared = unpacked
    (shared / f"{target}/checkpoints").mkdir()
    file = rendered(program, target, shared)
    job = program.submitted(name, f"--export=ALL,IMAGE_ROOT=/fsx/{target}", file, "--smoke")
    found = program.at_end(name, job)
    output = (shared / f"{target}-{job}.out").read_text()
    assert "JobState=COMPLETED" in found, output
    assert re.search(PROGRAMS[target], output), output
    assert "NodeList=node-[1-2]" in found


def machine_of(node: str, shared: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Return the container of a node of the cluster with this shared folder."""
    (found,) = [
        record["Id"]
        for record in records
        if f"-{node}-machine" in str(record["Names"])
        and str(shared) in [mount.get("Source") for mount in record["Mounts"]]
    ]
    return str(found)


def test_a_killed_rank_fails_the_job(program: Program, unpacked: tuple[str, Path]) -> None:
    name, shared = unpacked
    file = rendered(program, "param-benchmark", shared)
    words = ("--device", "cpu", "--n", "1000000", "--b", "64M")
    job = program.submitted(name, "--export=ALL,IMAGE_ROOT=/fsx/param-benchmark", file, *words)
    engine = Engine()
    node = machine_of("node-2", shared, engine.containers(CLUSTER_LABEL))
    kill = ["pkill", "-KILL", "-f", "comms.py"]
    assert until(lambda: engine.execute(node, kill, lambda _: None) == 0, timeout_s=JOB_S, every_s=0.5)
    assert "JobState=FAILED" in program.at_end(name, job)


def test_slurm_rejects_a_job_for_nodes_or_gpus_that_the_cluster_lacks(
    program: Program, unpacked: tuple[str, Path], root: Path, tmp_path: Path
) -> None:
    site = create_site(tmp_path, root)
    gpus = program.up("gpus", "p5.48xlarge")
    for shared in (gpus, unpacked[1]):
        (shared / "p5.sbatch").write_text(text_of(*make_file(site, "trainer", "p5", "slurm")))
    assert program.on_head("gpus", "sbatch", "--test-only", "p5.sbatch").returncode == 0
    for name, more, reason in (
        (unpacked[0], (), "Invalid generic resource"),
        ("gpus", ("--nodes=3",), "not available"),
        ("gpus", ("--gpus-per-node=9",), "not available"),
    ):
        done = program.on_head(name, "sbatch", "--test-only", *more, "p5.sbatch")
        assert (done.returncode, reason in done.stdout) == (1, True), done.stdout
    nodes = program.done("rehearse", "cluster", "status", "--name", "gpus").splitlines()[-2:]
    assert [line.split() for line in nodes] == [
        [node, "idle", "192", "2097152", "gpu:h100:8"] for node in ("node-1", "node-2")
    ]
    shutil.copy(root / "observability/textfile/metrics.py", gpus)
    samples = program.on_head("gpus", "python3", "metrics.py", "slurm").stdout.splitlines()
    wanted = ["slurm_up 1", 'slurm_nodes{partition="p5",state="idle"} 2']
    wanted += [f'slurm_gpus{{slurm_node="node-{i}"}} 8' for i in (1, 2)]
    assert [line for line in wanted if line not in samples] == []


def containers() -> list[str]:
    """Return the names of the containers of all clusters."""
    return [str(record["Names"]) for record in Engine().containers(CLUSTER_LABEL)]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_cluster_start_leaves_no_containers(program: Program, sign: signal.Signals) -> None:
    before = set(containers())
    words = ("rehearse", "cluster", "up", "--name", "cut", "--instance", "m7i.4xlarge")
    with subprocess.Popen(program.argv(*words), cwd=program.root, env=program.environment) as process:
        assert until(lambda: len(set(containers()) - before) > 2, timeout_s=BOUND_S, every_s=0.05)
        process.send_signal(sign)
        process.wait(BOUND_S)
    if sign == signal.SIGKILL:
        assert set(containers()) - before
        assert program.call("rehearse", "cluster", "status", "--name", "cut").returncode == 3
        program.done("clean", "--yes")
    assert set(containers()) == before


def test_cluster_down_removes_everything_except_the_shared_folder(program: Program) -> None:
    before = set(containers())
    shared = program.up("brief", "m7i.4xlarge")
    (shared / "result").write_text("kept")
    program.done("rehearse", "cluster", "down", "--name", "brief")
    assert set(containers()) == before
    assert (shared / "result").read_text() == "kept"
    assert not (program.folder / "home/clusters/brief").exists()
    shutil.rmtree(shared)
