"""Launch files: golden files, device counts of every EC2 type, refused jobs, and known mistakes."""

import argparse
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.app.context import Context
from builder.app.launching import kind_of, text_of
from builder.cli.main import main
from builder.errors import IncompatibleError, IntegrityError
from builder.launch.files import KUBERNETES, SLURM
from builder.launch.job import Image, Wish, make_job, processes_of
from builder.launch.kubernetes import KINDS
from builder.launch.lexing import commands
from builder.launch.section import LAUNCHERS
from builder.model import Launch
from builder.tables import Table
from tests.support.launching import DIGEST, FLAVOURS, REGISTRY, create_site, make_file, receipt, write_receipt

GOLDEN = Path(__file__).parents[1] / "golden" / "launch"
LAUNCH = Launch(runner="torchrun", command=("train.py",), mounts={"checkpoints": "/checkpoints"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Context:
    return create_site(tmp_path_factory.mktemp("launch"), root)


def is_possible(flavour: str, service: str) -> bool:
    """True if a launcher supports the type of a flavour: HyperPod has no hpc instance types."""
    return not (service.startswith("hyperpod") and FLAVOURS[flavour][1].startswith("hpc"))


def golden_cases() -> list[tuple[str, str, str]]:
    """Return target, flavour and launcher of each golden file; Kubernetes launchers are `name/kind`."""
    cases = [
        ("trainer", flavour, f"{service}/{kind}" if service in KUBERNETES else service)
        for flavour in FLAVOURS
        for service in LAUNCHERS
        for kind in (KINDS["torchrun"] if service == "kubernetes" else ("pytorchjob",))
        if service != "pcs" and is_possible(flavour, service)  # the text for PCS is that for Slurm
    ]
    collectives = [("collectives", "p5", service) for service in ("slurm", "kubernetes/mpijob")]
    services = ("slurm", "docker", "batch", "kubernetes/jobset")
    joined = [("joined", flavour, service) for flavour in ("p5", "cpu") for service in services]
    ray = [("rayed", flavour, "kubernetes/raycluster") for flavour in ("p5", "trn2", "cpu")]
    return [
        *dict.fromkeys(cases),
        *collectives,
        *ray,
        *joined,
        ("single", "cpu", "kubernetes/jobset"),
        ("single", "p5", "kubernetes/daemonset"),
    ]


@pytest.mark.parametrize(("target", "flavour", "service"), golden_cases())
def test_launch_files_equal_the_golden_files(site: Context, target: str, flavour: str, service: str) -> None:
    """To update them, run WRITE_LAUNCH=1 pytest tests/unit/test_launch_files.py and review the diff."""
    launcher, _, kind = service.partition("/")
    wish = Wish(nodes=1 if target == "single" else 2, kind=kind)
    text = text_of(*make_file(site, target, flavour, launcher, wish))
    path = GOLDEN / target / flavour / f"{service.replace('/', '-')}.txt"
    if os.environ.get("WRITE_LAUNCH"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_has_a_case(site: Context) -> None:
    wanted = {
        GOLDEN / target / flavour / f"{service.replace('/', '-')}.txt"
        for target, flavour, service in golden_cases()
    }
    assert set(GOLDEN.rglob("*.txt")) == wanted


@pytest.mark.parametrize(
    ("flavour", "service"),
    [(flavour, service) for flavour in FLAVOURS for service in LAUNCHERS if is_possible(flavour, service)],
)
def test_launch_files_name_the_image_by_digest_and_no_host_library(
    site: Context, flavour: str, service: str
) -> None:
    text = text_of(*make_file(site, "trainer", flavour, service))
    assert DIGEST in text
    assert not re.search(r"trainer:(?!sha256)|latest", text)
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "FI_PROVIDER", "NCCL_PROTO", "/usr/local/cuda", "etcd"):
        assert name not in text


@pytest.mark.parametrize("flavour", ["p5", "trn2", "cpu"])
@pytest.mark.parametrize("service", ["slurm", "docker"])
def test_launch_scripts_pass_shellcheck(site: Context, flavour: str, service: str, tmp_path: Path) -> None:
    wishes = (Wish(nodes=1), Wish(nodes=3), Wish(nodes=2, is_squashfs=service == "slurm"))
    for target, wish in (*(("trainer", wish) for wish in wishes), ("joined", Wish(nodes=2))):
        path = tmp_path / "script"
        path.write_text(text_of(*make_file(site, target, flavour, service, wish)))
        done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_only_slurm_launch_files_set_nvidia_visible_devices(site: Context) -> None:
    """Other launchers assign GPUs to a container; NVIDIA_VISIBLE_DEVICES would override the assignment."""
    for service in LAUNCHERS:
        text = text_of(*make_file(site, "trainer", "p5", service))
        assert ("NVIDIA_VISIBLE_DEVICES" in text) == (service in ("slurm", "hyperpod-slurm", "pcs"))
        assert "NVIDIA_DRIVER_CAPABILITIES" in text


def test_arguments_of_the_user_reach_the_program_unchanged(site: Context, tmp_path: Path) -> None:
    words = ("a b", "$(id)", "`id`", "'", '"', "--x=$HOME", "\\", "*")
    _, file = make_file(site, "trainer", "cpu", "docker", Wish(nodes=1, arguments=words))
    assert isinstance(file.content, str)
    (tmp_path / "docker").write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    (tmp_path / "docker").chmod(0o755)
    script = file.content.replace("mkdir -p", "true")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", script, "script", "more"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-len(words) - 1 :] == [*words, "more"]
    job, file = make_file(site, "trainer", "cpu", "kubernetes", Wish(kind="jobset", arguments=words))
    assert "$$(id)" in text_of(job, file)


def _torchrun() -> argparse.ArgumentParser:
    """Return a parser with torchrun's options, in which `--n` is an ambiguous abbreviation."""
    parser = argparse.ArgumentParser()
    for name in ("nnodes", "nproc-per-node", "node-rank", "rdzv-id", "rdzv-backend", "rdzv-endpoint"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--rdzv-conf")
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _words_after_torchrun(value: Any) -> Iterator[list[str]]:
    if isinstance(value, str):
        found = [words for _, words in commands(value)]
    else:
        found = [value] if isinstance(value, list) and all(isinstance(word, str) for word in value) else []
        for entry in value.values() if isinstance(value, dict) else value if not found else ():
            yield from _words_after_torchrun(entry) if isinstance(entry, dict | list) else ()
        if found and found[0][:1] == ["/bin/sh"]:
            yield from _words_after_torchrun(found[0][-1])
    for words in found:
        if "torchrun" in words:
            yield words[words.index("torchrun") + 1 :]


@pytest.mark.parametrize("service", LAUNCHERS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_passes_every_option_to_the_program(site: Context, service: str, nodes: int) -> None:
    for kind in KINDS["torchrun"] if service in KUBERNETES else ("",):
        wish = Wish(nodes=nodes, kind=kind, arguments=("--n", "3", "--", "-x"))
        (words,) = _words_after_torchrun(make_file(site, "trainer", "p5", service, wish)[1].content)
        options = _torchrun().parse_args(words)
        assert options.program == "train.py"
        more = ["$@"] if service in (*SLURM, "docker") else []
        assert options.arguments == ["--checkpoint-dir", "/checkpoints", *wish.arguments, *more]


def _image(instance: Any, **changes: Any) -> Image:
    values: dict[str, Any] = {
        "name": f"{REGISTRY}/trainer@sha256:{DIGEST}",
        "target": "trainer",
        "flavour": "x",
        "key": "0",
        "run": "r",
        "created": "c",
        "arch": instance.arch,
        "accelerator": instance.accel,
    }
    return Image(**{**values, **changes})


def test_job_counts_fit_every_instance_type(site: Context) -> None:
    for instance in site.catalog.instances.values():
        if instance.ram_gib is None:
            continue
        job = make_job(_image(instance), LAUNCH, instance, (), Wish(nodes=2), service="batch")
        assert job.processes == processes_of(instance) >= 1
        assert len(job.devices) == job.neuron_devices + (instance.efa or 0)
        assert job.memory_mib < instance.ram_gib * 1024
        assert (job.gpus > 0) == (instance.accel == "nvidia")
        assert ("NVIDIA_DRIVER_CAPABILITIES" in job.environment) == (instance.accel == "nvidia")
        single = make_job(_image(instance), LAUNCH, instance, (), Wish(nodes=1), service="batch")
        assert single.efa == 0


def test_only_p6e_instance_types_have_unknown_counts(site: Context) -> None:
    unknown = {
        instance.name
        for instance in site.catalog.instances.values()
        if None in (instance.count, instance.vcpus, instance.ram_gib, instance.efa)
    }
    assert unknown == {"p6e-gb200.36xlarge"}


@pytest.mark.parametrize(
    ("changes", "wish", "message"),
    [
        ({"arch": "arm64"}, Wish(), "image of run r is for arm64, but p5.48xlarge is x86_64"),
        ({"accelerator": "none"}, Wish(), "flavour 'x' of 'trainer' is for CPUs, but p5.48xlarge has H100"),
        ({"instances": ("p4d.24xlarge",)}, Wish(), "does not support p5.48xlarge (supported: p4d.24xlarge)"),
        ({}, Wish(processes=9), "--processes 9: p5.48xlarge has 8 GPUs"),
    ],
)
def test_jobs_that_do_not_fit_are_refused(
    site: Context, changes: Mapping[str, Any], wish: Wish, message: str
) -> None:
    instance = site.catalog.instances["p5.48xlarge"]
    with pytest.raises(IncompatibleError) as caught:
        make_job(_image(instance, **changes), LAUNCH, instance, (), wish, service="slurm")
    assert message in caught.value.message
    assert caught.value.hint


def test_a_program_for_any_instance_runs_once_on_a_gpu_instance(site: Context) -> None:
    instance = site.catalog.instances["p5.48xlarge"]
    section = Launch(runner="none", command=("check",), any_instance=True)
    job = make_job(_image(instance, accelerator="none"), section, instance, (), Wish(), service="slurm")
    assert (job.gpus, job.processes) == (8, 1)


@pytest.mark.parametrize(
    ("launch", "wish", "service", "message"),
    [
        ({"runner": "none"}, Wish(nodes=2), "slurm", "has the runner 'none', so it starts one process"),
        ({"runner": "node"}, Wish(processes=8), "slurm", "runner 'node', so it starts one process on each"),
        ({"runner": "ray"}, Wish(nodes=2), "slurm", "the operator of Kubernetes starts Ray on other nodes"),
        ({"runner": "mpirun"}, Wish(nodes=2), "batch", "does not run on AWS Batch: mpirun starts processes"),
        ({"without": {"docker": "no"}}, Wish(), "docker", "does not run on Docker on EC2 instances: no"),
        (
            {"shared_memory_gib": 2000},
            Wish(),
            "slurm",
            "needs 2000 GiB of shared memory; p5.48xlarge has 2048",
        ),
    ],
)
def test_programs_that_a_launcher_cannot_start_are_refused(
    site: Context, launch: Mapping[str, Any], wish: Wish, service: str, message: str
) -> None:
    instance = site.catalog.instances["p5.48xlarge"]
    section = Launch(**{"runner": "torchrun", "command": ("train.py",), **launch})
    with pytest.raises(IncompatibleError) as caught:
        make_job(_image(instance), section, instance, (), wish, service=service)
    assert message in caught.value.message


_FAKES = {
    "scontrol": "echo node-1; echo node-2",
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; SLURM_PROCID=1 exec "$@"',
    "python": 'echo "$RANK $WORLD_SIZE $JAX_COORDINATOR_ADDRESS $*"',
    "docker": 'printf "%s\\n" "$@"',
}


@pytest.mark.parametrize("service", ["slurm", "docker", "batch"])
def test_each_node_gets_the_address_of_the_first_node(site: Context, service: str, tmp_path: Path) -> None:
    for name, body in _FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "AWS_BATCH_JOB_NODE_INDEX": "1",
        "AWS_BATCH_JOB_NUM_NODES": "2",
        "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "node-1",
        "HEAD_NODE": "node-1",
        "RANK": "1" if service == "docker" else "9",
    }
    content = make_file(site, "joined", "p5", service, Wish(nodes=2, arguments=("a b",)))[1].content
    if isinstance(content, str):
        command = ["bash", "-c", content.replace("mkdir -p", "true")]
    else:
        command = content["nodeProperties"]["nodeRangeProperties"][0]["container"]["command"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if service == "docker":
        values = {"RANK=1", "WORLD_SIZE=2", "JAX_COORDINATOR_ADDRESS=node-1:29500"}
        assert {f"--env={value}" for value in values} <= set(done.stdout.splitlines())
    else:
        assert done.stdout == "1 2 node-1:29500 train.py a b\n"


def test_settings_that_rules_require_reach_the_job(site: Context) -> None:
    instance = site.catalog.instances["p5.48xlarge"]
    settings = ("FI_X=1", "unset NCCL_ALGO", "--cap-add=SYS_NICE", "sysctl vm.x=1")
    job = make_job(_image(instance), LAUNCH, instance, settings, Wish(), service="slurm")
    assert job.environment["FI_X"] == "1"
    assert (job.unset, job.capabilities) == (("NCCL_ALGO",), ("SYS_NICE",))
    assert not any("vm.x" in name for name in job.environment)


def test_unpacked_image_gets_host_paths_instead_of_mounts(site: Context) -> None:
    wish = Wish(nodes=2, has_runtime=False, folders={"checkpoints": "/fsx/mine"})
    text = text_of(*make_file(site, "trainer", "cpu", "slurm", wish))
    assert "--container-image" not in text
    assert "--checkpoint-dir \\\n    /fsx/mine" in text


class Command:
    """Runs `builder launch` in the test site; returns exit code, stdout and stderr."""

    def __init__(self, site: Context, capsys: pytest.CaptureFixture[str]) -> None:
        self._site, self._capsys = site, capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        at = words.index("--") if "--" in words else len(words)
        self._capsys.readouterr()
        code = main(["launch", *words[:at], "--root", str(self._site.root), *words[at:]])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err


@pytest.fixture
def launch(site: Context, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("BUILDER_HOME", str(site.workspace.home))
    monkeypatch.delenv("BUILDER_SITE", raising=False)
    return Command(site, capsys)


def test_launch_prints_or_writes_the_launch_file(launch: Command, tmp_path: Path) -> None:
    words = ("trainer", "--flavour", "cpu", "--on", "slurm", "--instance", "hpc7a.96xlarge", "--nodes", "2")
    code, out, err = launch(*words, "--", "--steps", "7")
    assert (code, err) == (0, "")
    assert out.startswith("#!/bin/bash\n")
    assert '--steps \\\n    7 \\\n    "$@"\n' in out
    code, printed, _ = launch(*words, "-o", str(tmp_path / "jobs"), "--", "--steps", "7")
    assert (code, printed) == (0, f"{tmp_path}/jobs/trainer.sbatch\n")
    assert (tmp_path / "jobs/trainer.sbatch").read_text() == out
    job = ("trainer", "--flavour", "p5", "--on", "kubernetes", "--instance", "p5.48xlarge")
    code, out, _ = launch(*job, "--mount", "checkpoints=/data/runs/a")
    volumes = yaml.safe_load(out)["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["volumes"]
    assert volumes[1] == {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}


def test_error_names_a_folder_with_the_name_of_the_launch_file(launch: Command, tmp_path: Path) -> None:
    (tmp_path / "trainer.sbatch").mkdir()
    code, out, err = launch(*GOOD, "-o", str(tmp_path))
    assert (code, out) == (2, "")
    assert (
        err == f"error: {tmp_path}/trainer.sbatch: Is a directory\nhint: ls -ld {tmp_path}/trainer.sbatch\n"
    )


GOOD = ("trainer", "--flavour", "p5", "--on", "slurm", "--instance", "p5.48xlarge")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((*GOOD[:-1], "p5.48xlrge"), 2, "--instance: no EC2 type 'p5.48xlrge'"),
        ((*GOOD, "--processes", "9"), 8, "--processes 9: p5.48xlarge has 8 GPUs"),
        ((*GOOD, "--nodes", "0"), 2, "must be a number from 1 to 5000, not '0'"),
        ((*GOOD, "--nodes", "1" * 5000), 2, "must be a number from 1 to 5000, not '1111"),
        ((*GOOD, "--nodes", "\u0664"), 2, "must be a number from 1 to 5000, not "),
        ((*GOOD, "--processes", "-1"), 2, "--processes"),
        ((*GOOD, "--mount", "checkpoints=/a b"), 2, "must be NAME=FOLDER with an absolute path"),
        (
            (*GOOD, "--mount", "checkpoints=/a\nb"),
            2,
            "--mount: has a control character: 'checkpoints=/a\\nb'",
        ),
        ((*GOOD, "--mount", "checkpoint=/a"), 2, "no mount 'checkpoint' (did you mean 'checkpoints'?)"),
        ((*GOOD, "--mount", "checkpoints=a"), 2, "must be NAME=FOLDER with an absolute path"),
        ((*GOOD, "--mount", "checkpoints=/a,b:/etc"), 2, "must be NAME=FOLDER with an absolute path"),
        ((*GOOD, *("--mount", "checkpoints=/a") * 2), 2, "--mount checkpoints is given 2 times"),
        ((*GOOD, "--", "a", "\udcff"), 2, "the argument '\\udcff' of the program is not UTF-8 text"),
        ((*GOOD, "--as", "jobset"), 2, "--as jobset: is not supported with --on slurm"),
        ((*GOOD, "--runtime", "none", "--image", "squashfs"), 2, "--image has no effect with --runtime none"),
        ((*GOOD[:-1], "g5.48xlarge"), 8, "does not support g5.48xlarge"),
        (
            ("trainer", "--flavour", "cpu", "--on", "hyperpod-eks", "--instance", "hpc7a.96xlarge"),
            8,
            "SageMaker HyperPod has no instances of type hpc7a.96xlarge",
        ),
        ((*GOOD[:-1], "hpc7g.16xlarge"), 8, "is for x86_64, but hpc7g.16xlarge is arm64"),
        ((*GOOD[:-1], "p6e-gb200.36xlarge"), 8, "is for x86_64, but p6e-gb200.36xlarge is arm64"),
        (("trainer", "--flavour", "g5", *GOOD[3:-1], "p6-b300.48xlarge"), 8, "p6-b300.48xlarge: "),
        (("traner", *GOOD[1:]), 2, "no target 'traner' (did you mean 'trainer'?)"),
        (("ami-cpu", *GOOD[3:]), 2, "target 'ami-cpu' has no [launch] section"),
        (
            ("cpu-ddp", *GOOD[3:-1], "hpc7a.96xlarge"),
            3,
            "no receipt of target 'cpu-ddp', flavour 'cpu'",
        ),
        (
            ("collectives", *GOOD[1:3], "--on", "kubernetes", *GOOD[5:], "--as", "jobset"),
            2,
            "--as jobset: the runner of target 'collectives' is 'mpirun' (available: mpijob)",
        ),
    ],
)
def test_launch_refuses_bad_arguments(
    launch: Command, words: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = launch(*words)
    assert (found, out) == (code, ""), err
    assert message in err
    assert err.count("error: ") == 1
    assert "\nhint: " in err


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"publications": []}, 3, "is not published, so no node can pull it"),
        ({"report": None}, 5, "the checks of the image of run 20261130-120000-build-aaaaaa did not run"),
        ({"report": "failed"}, 5, "the checks of the image of run 20261130-120000-build-aaaaaa failed"),
        ({"stack": "gone"}, 3, "has stack 'gone', which the catalog no longer has"),
    ],
)
def test_launch_refuses_an_image_that_no_node_could_run(
    site: Context, launch: Command, changes: Table, code: int, message: str
) -> None:
    table = receipt(site, "trainer", "p5", created="2026-12-01T00:00:00Z")
    if changes.get("report") == "failed":
        table["report"]["checks"][0]["outcome"] = "failed"
    elif "stack" in changes:
        table["plan"]["stack"]["name"] = changes["stack"]
    else:
        table |= changes
    path = write_receipt(site, table, "newer")
    try:
        found, _, err = launch(*GOOD)
    finally:
        path.unlink()
    assert found == code, err
    assert message in err
    assert "\nhint: builder build trainer" in err
    assert launch(*GOOD)[0] == 0


def test_launch_uses_the_newest_receipt_and_names_a_damaged_receipt(site: Context, launch: Command) -> None:
    newer = receipt(site, "trainer", "p5", created="2026-12-01T00:00:00Z", run="20261201-120000-build-bbbbbb")
    path = write_receipt(site, newer, "newer")
    try:
        assert "20261201-120000-build-bbbbbb" in launch(*GOOD)[1]
        path.write_text("{")
        assert "20261201-120000-build-bbbbbb" not in launch(*GOOD)[1]
    finally:
        path.unlink()


def test_launch_notes_that_an_image_is_only_on_this_machine(site: Context, launch: Command) -> None:
    here = {"name": f"localhost:5000/trainer@sha256:{DIGEST}", "digest": f"sha256:{DIGEST}"}
    both = [*receipt(site, "trainer", "p5")["publications"], here]
    path = write_receipt(site, receipt(site, "trainer", "p5", created="3", publications=both), "newer")
    try:
        code, out, err = launch(*GOOD)
        assert (code, err) == (0, "")
        assert REGISTRY in out
        write_receipt(site, receipt(site, "trainer", "p5", created="3", publications=[here]), "newer")
        code, _, err = launch(*GOOD)
        assert (code, err.count("is in a registry of this machine")) == (0, 1)
        assert launch(*GOOD, "--image", "squashfs")[2] == ""
    finally:
        path.unlink()


def test_default_kubernetes_kind_of_a_target_depends_on_its_runner(site: Context) -> None:
    assert kind_of(site.catalog.targets["trainer"], "") == "pytorchjob"
    assert kind_of(site.catalog.targets["collectives"], "") == "mpijob"


EVIL = "$(touch evil)"


@pytest.mark.parametrize(
    "changes",
    [
        {"run": f"20261130-120000-build-aaaaaa\n{EVIL}"},
        {"run": EVIL},
        {"created": f"2026-11-30T12:00:00Z\r{EVIL}"},
        {"publications": [{"name": f"host/{EVIL}@sha256:{DIGEST}", "digest": f"sha256:{DIGEST}"}]},
        {"publications": [{"name": "host/trainer:latest", "digest": f"sha256:{DIGEST}"}]},
        {"publications": [{"name": "host/trainer@sha256:0123", "digest": "sha256:0123"}]},
        {"publications": [{"name": f"--privileged @sha256:{DIGEST}", "digest": f"sha256:{DIGEST}"}]},
        {"settings": ["unset A; touch evil"]},
        {"settings": ["A=1\ntouch evil"]},
        {"settings": ["--cap-add=ALL --privileged"]},
        {"artifact": {"kind": "container", "target": "trainer", "reference": "-v", "key": "0"}},
        {"artifact": {"kind": "ami", "target": "trainer", "reference": "ami-0123", "key": "0"}},
        {"key": f"0\n{EVIL}"},
        {"layers": []},
    ],
)
def test_receipt_with_invalid_values_is_refused(site: Context, changes: dict[str, Any]) -> None:
    changes = dict(changes)
    table = receipt(site, "trainer", "p5")
    plan = table["plan"]
    if settings := changes.pop("settings", None):
        plan["settings"] = dict.fromkeys(("p5.48xlarge", *plan["settings"]), settings)
    if "layers" in changes:
        plan["layers"] = changes.pop("layers")
    if key := changes.pop("key", None):
        plan["layers"][-1]["key"] = key
    folder = site.workspace.out / "receipts" / "trainer"
    kept = {path: path.read_text() for path in folder.glob("*.json")}
    try:
        for path in kept:
            path.unlink()
        write_receipt(site, {**table, **changes}, "evil")
        with pytest.raises(IntegrityError, match="a receipt of target 'trainer' has an invalid"):
            make_file(site, "trainer", "p5", "slurm", Wish(nodes=2))
    finally:
        (folder / "evil.json").unlink()
        for path, text in kept.items():
            path.write_text(text)
