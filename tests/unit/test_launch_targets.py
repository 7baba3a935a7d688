"""Launch files of every target on every launcher match their schema and have no known mistake."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from builder.adapters.host.workspace import Workspace
from builder.app.context import Context
from builder.app.launching import kind_of, text_of
from builder.errors import IncompatibleError
from builder.launch.checking import findings
from builder.launch.files import KUBERNETES, LaunchFile
from builder.launch.job import Job, Wish, obstacle
from builder.launch.scripts import read_script
from builder.launch.section import LAUNCHERS
from builder.launch.written import read_document
from builder.lint.files import File, Tree
from builder.lint.files import kind_of as kind_of_file
from builder.lint.rules import check
from builder.model import Instance, Target
from builder.stack.derive import derive
from tests.support.launch_schemas import aws_problems, kubernetes_problems
from tests.support.launching import DIGEST, create_site, make_file, receipt, write_receipt
from tests.support.rehearsal import ROOT

MOST_TYPES = 3
TARGETS = [
    path.stem
    for path in sorted((ROOT / "catalog/targets").glob("*.toml"))
    if "[launch]" in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Context:
    """The repository, with a receipt of every flavour."""
    folder = tmp_path_factory.mktemp("targets")
    context = Context(root)
    context.__dict__["workspace"] = Workspace(home=folder / "home", out=folder / "out")
    for target in context.catalog.targets.values():
        for flavour in target.flavours if target.launch else ():
            write_receipt(context, receipt(context, target.name, flavour), flavour)
    return context


def types_of(site: Context, target: Target, flavour: str) -> list[Instance]:
    """Return at most three EC2 types that the stack of the flavour runs on."""
    stack = site.catalog.stacks[target.flavours[flavour].stack]
    facts = derive({**site.knowledge.stack_facts(stack.name), "kind": "container"}, site.knowledge)
    fitting = [
        found
        for found in site.catalog.instances.values()
        if found.accel == facts.get("accel", "none")
        and found.arch == "x86_64"
        and found.name in (stack.instances or (found.name,))
        and None not in (found.count, found.vcpus, found.ram_gib, found.efa)
    ]
    return fitting[:: max(1, len(fitting) // MOST_TYPES)][:MOST_TYPES]


def made(site: Context, target: Target, flavour: str) -> Iterator[tuple[str, Job, LaunchFile]]:
    """Yield launcher, job and file for each launcher and type that can run the target."""
    assert target.launch
    nodes = 1 if target.launch.runner == "none" else 2
    for instance in types_of(site, target, flavour):
        for service in LAUNCHERS:
            if obstacle(target.launch, service, nodes=nodes) or (
                service.startswith("hyperpod") and not instance.in_hyperpod
            ):
                continue
            wish = Wish(nodes=nodes, kind=kind_of(target, "") if service in KUBERNETES else "")
            with suppress(IncompatibleError):  # a rule of the stack, or too little memory
                yield service, *make_file(site, target.name, flavour, service, wish, instance=instance.name)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_renders_for_its_launchers_and_types(site: Context, name: str) -> None:
    target = site.catalog.targets[name]
    assert target.launch
    for flavour in target.flavours:
        seen = set()
        for service, job, file in made(site, target, flavour):
            content = file.content
            written = read_script(content) if isinstance(content, str) else read_document(content)
            assert findings(written, job, {}) == [], (flavour, service, job.instance.name)
            if service not in seen:  # other types differ in counts alone
                assert mistakes(service, text_of(job, file)) == [], (flavour, service)
            if service not in seen and flavour == target.default.name:
                assert schema_problems(service, content) == []
            seen.add(service)
        possible = {service for service in LAUNCHERS if not obstacle(target.launch, service, nodes=2)}
        assert seen >= {service for service in possible if not service.startswith("hyperpod")}, flavour


def schema_problems(service: str, content: Any) -> list[str]:
    if service in KUBERNETES:
        return list(kubernetes_problems(content))
    return list(aws_problems("batch", "RegisterJobDefinition", content)) if service == "batch" else []


NAMES = {"batch": "job.json", "docker": "job.sh"} | dict.fromkeys(KUBERNETES, "job.yaml")


def mistakes(service: str, text: str) -> list[str]:
    """Return the findings of `builder lint` in a launch file."""
    name = NAMES.get(service, "job.sbatch")
    path = PurePosixPath(name)
    return [
        f"{found.rule.id}: {found.message}" for found in check(Tree((File(path, kind_of_file(path), text),)))
    ]


# Known mistakes: defect, flavour, launcher, text in a launch file, its replacement, rule with a finding.
MISTAKES = [
    # Image tags that move, and image names that differ from the name in an earlier step.
    ("D08", "p5", "kubernetes", f"@sha256:{DIGEST}", ":latest", "floating-tag"),
    (
        "D11",
        "p5",
        "slurm",
        "srun",
        "enroot import -o a.sqsh docker://b\nsrun --container-image=c.sqsh",
        "image-name",
    ),
    # Host libraries in a container, and environment variables for another accelerator.
    ("D09", "p5", "slurm", "srun", "export LD_PRELOAD=/usr/local/cuda-12.8/lib/libnccl.so\nsrun", "preload"),
    ("D13", "trn2", "kubernetes", "name: NEURON_RT_VIRTUAL_CORE_SIZE", "name: NCCL_DEBUG", "gpu-variable"),
    # Variables that are never set, set too late, or misspelt, and wrong paths.
    ("D11", "p5", "slurm", "--nproc-per-node=8", '--nnodes="$NODES"', "unset-variable"),
    ("D17", "p5", "slurm", "srun", 'MOUNTS="$DATA_PATH:/data"\nDATA_PATH=/fsx/a\nsrun', "mount-before-value"),
    ("D13", "p5", "kubernetes", "name: NVIDIA_DRIVER", "name: dATASET_CONFIG", "misspelt-variable"),
    ("D17", "p5", "slurm", "srun", "mkdir -p ${RESULTS}}\nsrun", "stray-brace"),
    ("D17", "p5", "slurm", "/fsx/trainer/checkpoints", "/home/jdoe/checkpoints", "person-path"),
]


@pytest.mark.parametrize(("defect", "flavour", "service", "old", "new", "rule"), MISTAKES)
def test_known_mistakes_are_found_in_an_edited_file(
    samples: Context, defect: str, flavour: str, service: str, old: str, new: str, rule: str
) -> None:
    job, file = make_file(samples, "trainer", flavour, service)
    text = text_of(job, file)
    assert old in text
    assert mistakes(service, text) == []
    assert rule in {found.partition(":")[0] for found in mistakes(service, text.replace(old, new))}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Context:
    return create_site(tmp_path_factory.mktemp("launch"), root)


def test_the_number_of_nodes_is_stated_once(samples: Context) -> None:
    """Defect D13: replicas were always 1, although a variable contained the number of nodes."""
    for kind in ("pytorchjob", "trainjob", "jobset"):
        job, file = make_file(samples, "trainer", "p5", "kubernetes", Wish(nodes=7, kind=kind))
        assert isinstance(file.content, dict)
        written = read_document(file.content)
        assert written.count("nodes") in (7, None)
        assert "replicas: 1\n" not in text_of(job, file).replace("name: workers\n    replicas: 1\n", "")


def test_documents_name_launch_files_that_a_command_writes(root: Path) -> None:
    """Defect D22: guides named batch scripts that did not exist."""
    known = {f"{target}.sbatch" for target in TARGETS} | {"job.sbatch"}
    for path in (root / "docs").rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert {name for name in re.findall(r"[\w-]+\.sbatch", text) if name not in known} == set(), path


# Options that are not defined in the programs, but by BioNeMo, Transformers and argparse.
OF_PACKAGES = ("--result-dir", "--output_dir", "--help")


def test_options_of_first_runs_are_options_of_the_program(root: Path) -> None:
    """Defect D08: a batch script passed --use-mlflow to a program with the option --use_mlflow."""
    for name in TARGETS:
        table = tomllib.loads((root / f"catalog/targets/{name}.toml").read_text(encoding="utf-8"))
        launch, folders = (
            table["launch"],
            (root / "containers" / table["workload"] / "src", root / "containers/common"),
        )
        program = next((word for word in launch["command"] if word.endswith(".py")), "")
        sources = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
        if not (folders[0] / Path(program).name).is_file():
            continue  # a program of the base image or of a package
        for word in (*launch["command"], *launch.get("first_run", ())):
            if word.startswith("--") and word not in OF_PACKAGES:
                assert any(f'"{word}"' in source for source in sources), f"{name}: {word}"
