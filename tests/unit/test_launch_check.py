"""`builder launch --check`: no findings in rendered files, findings in edits, errors for other files."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.app import launch_checking
from builder.app.context import Context
from builder.app.launching import text_of
from builder.cli.main import main
from builder.launch.files import KUBERNETES
from builder.launch.job import Wish
from builder.launch.kubernetes import KINDS
from builder.launch.scripts import registry_name
from builder.launch.section import LAUNCHERS
from builder.launch.written import gib
from tests.support.launching import FLAVOURS, REGISTRY, create_site, make_file, receipt, write_receipt

P5 = ("trainer", "p5")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Context:
    """Site with published images that have different digests."""
    found = create_site(tmp_path_factory.mktemp("check"), root)
    for target in ("trainer", "collectives", "rayed", "joined"):
        for flavour in FLAVOURS:
            name = f"{REGISTRY}/{target}@sha256:{digest_of(target, flavour)}"
            table = receipt(found, target, flavour, publications=[{"name": name, "digest": name[-71:]}])
            write_receipt(found, table, flavour)
    return found


def digest_of(target: str, flavour: str) -> str:
    return hashlib.sha256(f"{target} {flavour}".encode()).hexdigest()


class Image:
    """Environment variables and programs of an image; replaces look-ups in the engine and the registry."""

    def __init__(self) -> None:
        self.variables: list[str] = ["PATH=/opt/venv/bin"]
        self.programs = {
            "python",
            "torchrun",
            "mpirun",
            "train.py",
            "all_reduce_perf",
            "/opt/venv/bin/python",
        }
        self.is_in_registry = True

    def inspect_image(self, reference: str) -> Mapping[str, Any]:
        return {"Config": {"Env": self.variables}}


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> Image:
    found = Image()
    monkeypatch.setattr(launch_checking, "Engine", lambda: found)
    monkeypatch.setattr(
        launch_checking, "_lacking", lambda *words: [word for word in words[-1] if word not in found.programs]
    )
    monkeypatch.setattr(launch_checking, "is_in_registry", lambda *_: found.is_in_registry)
    return found


class Check:
    """Runs `builder launch --check` in the test site; returns exit code, stdout and stderr."""

    def __init__(self, site: Context, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._site, self._path, self._capsys = site, folder / "file", capsys

    def __call__(self, text: str | bytes, *words: str) -> tuple[int, str, str]:
        self._path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self._capsys.readouterr()
        out = self._site.workspace.out
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(out.parent)
            code = main(["launch", "--check", str(self._path), *words, "--root", str(self._site.root)])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err


@pytest.fixture
def check(site: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str], image: Image) -> Check:
    return Check(site, tmp_path, capsys)


DIGEST = hashlib.sha256(b"trainer p5").hexdigest()


def cases() -> Iterator[tuple[str, str, str, str]]:
    for flavour in FLAVOURS:
        for service in LAUNCHERS:
            if service.startswith("hyperpod") and FLAVOURS[flavour][1].startswith("hpc"):
                continue
            for kind in KINDS["torchrun"] if service in KUBERNETES else ("",):
                yield "trainer", flavour, service, kind
    yield "rayed", "p5", "kubernetes", "raycluster"
    for service in LAUNCHERS:
        yield "joined", "p5", service, "jobset" if service in KUBERNETES else ""
    yield from (("collectives", "p5", "slurm", ""), ("collectives", "p5", "kubernetes", "mpijob"))


@pytest.mark.parametrize(("target", "flavour", "service", "kind"), list(cases()))
def test_rendered_files_have_no_findings(
    site: Context, check: Check, target: str, flavour: str, service: str, kind: str
) -> None:
    for nodes in (1, 2):
        text = text_of(*make_file(site, target, flavour, service, Wish(nodes=nodes, kind=kind)))
        option = ("--instance", FLAVOURS[flavour][1]) if (service, nodes) == ("batch", 1) else ()
        code, out, err = check(text, *option)
        assert code == 0, out + err
        assert " fits " in out


def test_unpacked_programs_and_squashfs_files_have_no_findings(site: Context, check: Check) -> None:
    for wish in (Wish(nodes=2, has_runtime=False), Wish(nodes=2, is_squashfs=True)):
        code, out, err = check(text_of(*make_file(site, *P5, "slurm", wish)))
        assert code == 0, out + err


POD, SET = ("kubernetes", "pytorchjob"), ("kubernetes", "jobset")
EDITS = [
    # launcher, Kubernetes kind, text, replacement of the text, place of the finding, message of the finding
    ("slurm", "", ":sha256:" + DIGEST, ":latest", "line 23: image ", "is not the one of run"),
    ("slurm", "", "--gpus-per-node=8", "--gpus-per-node=9", "line 10: ", "9 GPUs; p5.48xlarge has 8"),
    ("slurm", "", "--nproc-per-node=8", "--nproc-per-node=16", "line 23: ", "the job has 8 GPUs"),
    ("slurm", "", "export NVIDIA_VISIBLE_DEVICES=all", "", "", "variable NVIDIA_VISIBLE_DEVICES is missing"),
    (
        "slurm",
        "",
        "export NVIDIA_DRIVER",
        "export NVIDIA_DRIVERS",
        "",
        "NVIDIA_DRIVER_CAPABILITIES is missing",
    ),
    (
        "slurm",
        "",
        "    train.py",
        "    trian.py",
        "line 23: ",
        "no program trian.py (did you mean 'train.py'?)",
    ),
    ("slurm", "", "torchrun", "accelerate", "line 23: ", "no program accelerate"),
    ("slurm", "", "/checkpoints:/checkpoints", "/checkpoints:/else", "", "no mount at /checkpoints"),
    (
        "slurm",
        "",
        "of type p5.48xlarge",
        "of type g5.48xlarge",
        "line 2: ",
        "does not support g5.48xlarge",
    ),
    (
        "docker",
        "",
        "--shm-size=16g",
        "--shm-size=512m",
        "line 11: ",
        "0.5 GiB of shared memory; trainer needs 16",
    ),
    ("docker", "", "    --shm-size=16g \\\n", "", "", "0 GiB of shared memory"),
    ("docker", "", "uverbs31", "uverbs32", "", "device /dev/infiniband/uverbs31 is missing"),
    ("docker", "", "uverbs31", "uverbs32", "", "'/dev/infiniband/uverbs32': p5.48xlarge has none"),
    (
        "docker",
        "",
        "--env=NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "--env=A=b",
        "",
        "CAPABILITIES is missing",
    ),
    ("docker", "", "compute,utility", "utility", "", "NVIDIA_DRIVER_CAPABILITIES is 'utility'"),
    (
        "kubernetes",
        "pytorchjob",
        "vpc.amazonaws.com/efa: 32",
        "vpc.amazonaws.com/efa: 4",
        ".limits: ",
        "4 EFA",
    ),
    ("kubernetes", "pytorchjob", "nprocPerNode: '8'", "nprocPerNode: '4'", "", ""),
    (
        "kubernetes",
        "pytorchjob",
        "memory: 1843Gi",
        "memory: 2048Gi",
        ".limits.memory: ",
        "2048 GiB of memory",
    ),
    (
        "kubernetes",
        "pytorchjob",
        "sizeLimit: 16Gi",
        "sizeLimit: 1Gi",
        ".sizeLimit: ",
        "1 GiB of shared memory",
    ),
    (
        "kubernetes",
        "pytorchjob",
        "mountPath: /checkpoints",
        "mountPath: /ckpt",
        "",
        "no mount at /checkpoints",
    ),
    (
        "kubernetes",
        "trainjob",
        "instance-type: p5.48",
        "instance-type: p4d.24",
        ".nodeSelector: ",
        "p4d.24xlarge",
    ),
    ("kubernetes", "trainjob", "image: 1234", "image: 9234", "", ""),
    (
        "kubernetes",
        "jobset",
        "- --nproc-per-node=8",
        "- --nproc-per-node=9",
        ".command: ",
        "the job has 8 GPUs",
    ),
    ("batch", "", '"value": "8"', '"value": "16"', ".resourceRequirements: ", "16 GPUs; p5.48xlarge has 8"),
    (
        "batch",
        "",
        '"sharedMemorySize": 16384',
        '"sharedMemorySize": 64',
        ".sharedMemorySize: ",
        "0.0625 GiB of",
    ),
    (
        "slurm",
        "",
        "=/fsx/trainer/checkpoints:",
        "=checkpoints:",
        "line 23: ",
        "'checkpoints' at /checkpoints is no",
    ),
    ("slurm", "", "--container-image=", "--container-name=", "whole file: ", "no image"),
    ("slurm", "", "#SBATCH --gpus-per-node=8\n", "", "whole file: ", "no GPUs"),
    ("slurm", "", "--gpus-per-node=8", "--gpus=16", "", ""),
    (*POD, "            image: ", "            picture: ", "whole file: ", "no image"),
    (*POD, "nvidia.com/gpu: 8", "example.com/gpu: 8", "whole file: ", "no GPUs"),
    (*POD, "vpc.amazonaws.com/efa: 32", "example.com/efa: 32", "whole file: ", "no EFA interfaces"),
    (*POD, "nvidia.com/gpu: 8", "nvidia.com/gpu: .inf", ".limits: ", "'inf' is not a number"),
    (*POD, "nvidia.com/gpu: 8", "nvidia.com/gpu: eight", ".limits: ", "'eight' is not a number"),
    (*POD, "nvidia.com/gpu: 8", "nvidia.com/gpu: 0", ".limits: ", "0 GPUs; a job has 1 or more"),
    (*POD, "nprocPerNode: '8'", "nprocPerNode: auto", "", ""),
    (*SET, "completions: 2", "completions: .nan", ".completions: ", "'nan' is not a number"),
    (*SET, "completions: 2", "completions: 0", ".completions: ", "0 nodes; a job has 1 to"),
    (*SET, "completions: 2", f"completions: {'9' * 400}", ".completions: ", "is not a number"),
    (*POD, "nvidia.com/gpu: 8", "nvidia.com/gpu: -1", ".limits: ", "-1 GPUs; a job has 1 or more"),
    (*POD, "nvidia.com/gpu: 8", "nvidia.com/gpu: 1.5", ".limits: ", "1.5 GPUs; a job has 1 or more"),
    (*POD, "nvidia.com/gpu: 8", "nvidia.com/gpu: \u0664", ".limits: ", "is not a number"),
    (*POD, "nprocPerNode: '8'", "nprocPerNode: '0'", ".nprocPerNode: ", "0 processes; a job has 1 or more"),
    (*POD, "memory: 1843Gi", "memory: lots", ".limits.memory: ", "'lots' is not a size of memory"),
    (*POD, "memory: 1843Gi", "memory: 1900G", "", ""),
    (*POD, "memory: 1843Gi", "memory: 2300G", ".limits.memory: ", "GiB of memory; p5.48xlarge has 2048"),
    ("slurm", "", "--nodes=2", "--nodes=two", "line ", "'two' is not a number"),
    ("slurm", "", "--nodes=2", "--nodes=-1", "line ", "-1 nodes; a job has 1 to"),
    ("slurm", "", "--nodes=2", "--nodes=2-4", "", ""),
    ("slurm", "", "--nodes=2", "-N 2", "", ""),
    ("slurm", "", "--gpus-per-node=8", "--gpus-per-node=h100:8", "", ""),
    ("slurm", "", "--gpus-per-node=8", "--gpus-per-node=h100:9", "line 10: ", "9 GPUs; p5.48xlarge has 8"),
    ("slurm", "", "--gpus-per-node=8", "--gpus-per-node=0", "line 10: ", "0 GPUs; a job has 1 or more"),
    ("batch", "", '"hostPath": "/dev/infiniband/uverbs7"', '"hostPath": "/x"', "", "uverbs7 is missing"),
]


@pytest.mark.parametrize(("service", "kind", "old", "new", "place", "message"), EDITS)
def test_wrong_edits_of_launch_files_are_found_with_their_line(
    site: Context,
    check: Check,
    service: str,
    kind: str,
    old: str,
    new: str,
    place: str,
    message: str,
) -> None:
    text = text_of(*make_file(site, *P5, service, Wish(nodes=2, kind=kind)))
    assert old in text
    code, out, err = check(text.replace(old, new))
    if not message:  # fewer processes, or another name of the registry with the same digest
        assert code == 0, out
        return
    assert code == 5, out + err
    assert any(place in line and message in line and ". Fix: " in line for line in out.splitlines()), out
    assert "\nhint: " in err


def test_check_considers_environment_variables_of_the_image(
    site: Context, check: Check, image: Image
) -> None:
    text = text_of(*make_file(site, *P5, "docker", Wish(nodes=2)))
    bare = text.replace("--env=NVIDIA_DRIVER_CAPABILITIES=compute,utility", "--env=A=b")
    image.variables.append("NVIDIA_DRIVER_CAPABILITIES=compute,utility")
    assert check(bare)[0] == 0
    image.variables[-1] = "NVIDIA_DRIVER_CAPABILITIES=utility"
    assert "NVIDIA_DRIVER_CAPABILITIES is 'utility' in the image" in check(bare)[1]
    assert check(text)[0] == 0


def test_an_image_that_the_registry_lacks_is_found(site: Context, check: Check, image: Image) -> None:
    image.is_in_registry = False
    code, out, _ = check(text_of(*make_file(site, *P5, "slurm", Wish(nodes=2))))
    assert (code, out.count("whole file: the registry has no image ")) == (5, 1)


def test_findings_of_launch_check_are_printed_as_json(site: Context, check: Check) -> None:
    text = text_of(*make_file(site, *P5, "slurm", Wish(nodes=2)))
    code, out, _ = check(text.replace("node=8", "node=9"), "--json")
    result = json.loads(out)["result"]
    assert (code, result["target"], result["instance"]) == (5, "trainer", "p5.48xlarge")
    assert {found["place"] for found in result["findings"]} == {"line 10", "line 23"}
    assert json.loads(check(text, "--json")[1])["result"]["findings"] == []


# Seven levels of ten aliases each: a short text for ten million values.
ALIASES = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 8))


@pytest.mark.parametrize(
    ("text", "words", "code", "message"),
    [
        ("", (), 2, "is neither a script nor one YAML or JSON object"),
        ("a: [1", (), 2, "is not YAML"),
        ("{", (), 2, "Expecting"),
        (b"\xff", (), 2, "is not UTF-8 text"),
        (ALIASES, (), 2, "has more than 1048576 values at one level"),
        ("a: &a [*a]\n", (), 2, "is nested more than 50 levels deep"),
        (f"a: {'9' * 5000}\n", (), 2, "Exceeds the limit"),
        ("? [a]\n: b\n", (), 2, "is not YAML"),
        ("apiVersion: v1\n", (), 2, "is neither a Kubernetes object nor a job definition"),
        ("apiVersion: v1\nkind: Pod\n", (), 2, "names no image by its digest"),
        ("#!/bin/sh\necho\n", (), 2, "is neither an sbatch file with srun nor a script with docker run"),
        (
            f"#!/bin/sh\ndocker run a@sha256:{'1' * 64}\n",
            (),
            3,
            "no receipt of an image with the digest 1111",
        ),
        (f"#!/bin/sh\ndocker run {REGISTRY}/trainer@sha256:{DIGEST}\n", (), 2, "names no EC2 type"),
        (f"#!/bin/sh\ndocker run x@sha256:{DIGEST}\n", ("--instance", "p9"), 2, "no EC2 type 'p9'"),
        ("", ("trainer",), 2, "--check reads all but --instance from the file: remove trainer"),
        ("", ("--on", "slurm"), 2, "--check reads all but --instance from the file: remove --on"),
        ("", ("--nodes", "2"), 2, "--check reads all but --instance from the file: remove --nodes"),
        ("", ("--as", "jobset"), 2, "--check reads all but --instance from the file: remove --as"),
        ("", ("--mount", "checkpoints=/a"), 2, "from the file: remove --mount"),
        ("#!/bin/sh\r\ndocker run a\r\n", (), 2, "has carriage returns"),
        (
            f"#!/bin/sh\n# a on 1 node of type p9.48xlarge.\ndocker run x@sha256:{DIGEST}\n",
            (),
            2,
            "line 2: no EC2 type 'p9.48xlarge'",
        ),
    ],
)
def test_files_that_builder_launch_did_not_write_are_refused(
    check: Check, text: str | bytes, words: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = check(text, *words)
    assert (found, out) == (code, ""), out + err
    assert message in err
    assert (err.count("error: "), err.count("\nhint: ")) == (1, 1)


def test_a_wrong_number_of_nodes_is_the_only_finding(site: Context, check: Check) -> None:
    text = text_of(*make_file(site, *P5, "batch", Wish(nodes=2)))
    for number in ("NaN", "0", "1e400", '"two"'):
        code, out, _ = check(text.replace('"numNodes": 2', f'"numNodes": {number}'))
        assert (code, out.count("\n"), ".numNodes: " in out) == (5, 1, True), out


def test_the_commands_in_errors_of_launch_check_run(
    site: Context, check: Check, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = text_of(*make_file(site, *P5, "slurm", Wish(nodes=2)))
    typeless = f"#!/bin/sh\ndocker run {REGISTRY}/trainer@sha256:{DIGEST}\n"
    replaced = {"TARGET": "trainer", "TYPE": "p5.48xlarge", "FOLDER": str(tmp_path / "written")}
    for text, words, code in ((good, ["--on", "slurm"], 0), (typeless, [], 5), ("", [], 0)):
        printed = check(text, *words)[2].rpartition("builder launch ")[2].split()
        command = ["launch", *(replaced.get(word, word) for word in printed), "--root", str(site.root)]
        assert main(command) == code, capsys.readouterr().err
    assert list((tmp_path / "written").iterdir())


def test_error_names_a_missing_launch_file(site: Context, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--check", "nothing.sbatch", "--root", str(site.root)]) == 3
    assert "no file nothing.sbatch" in capsys.readouterr().err


def test_image_names_and_memory_sizes_of_all_formats_are_parsed() -> None:
    assert registry_name("r:5000#a/b:sha256:01") == registry_name("docker://r:5000#a/b@sha256:01")
    assert registry_name("/fsx/images/a.sqsh") == "/fsx/images/a.sqsh"
    sizes = {"16g": 16, "512m": 0.5, "1Gi": 1, "1024Mi": 1, "1Ti": 1024, "2e0Gi": None, "x": None, "": None}
    assert {text: gib(text) for text in sizes} == sizes
    assert gib("1073741824") == 1
    assert gib("1024M") == 1.024e9 / 2**30


def test_check_executes_no_command_in_a_launch_file(site: Context, check: Check, tmp_path: Path) -> None:
    text = text_of(*make_file(site, *P5, "slurm", Wish(nodes=2)))
    code, _, _ = check(text.replace("    train.py", f"    $(touch${{IFS}}{tmp_path}/x)"))
    assert code in (0, 5)
    assert not re.search("x", "".join(path.name for path in tmp_path.iterdir() if path.name != "file"))
