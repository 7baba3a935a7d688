"""The [launch] section of a target: invalid values, and the command line that the section describes."""

import re
from pathlib import Path

import pytest

from builder import catalog
from builder.errors import CatalogError
from builder.launch.section import command_line
from builder.model import Launch
from tests.support.repository import Repository

SECTION = """
[launch]
runner = "torchrun"
command = ["train.py", "--checkpoint-dir", "/checkpoints"]
first_run = ["--smoke"]
mounts = { checkpoints = "/checkpoints" }
shared_memory_gib = 2
"""


def with_launch(repository: Repository, section: str) -> None:
    path = repository.root / "catalog/targets/hello.toml"
    path.write_text(path.read_text() + section)


def test_launch_section_becomes_part_of_the_target(repository: Repository) -> None:
    with_launch(repository, SECTION)
    assert repository.load().targets["hello"].launch == Launch(
        runner="torchrun",
        command=("train.py", "--checkpoint-dir", "/checkpoints"),
        first_run=("--smoke",),
        mounts={"checkpoints": "/checkpoints"},
        shared_memory_gib=2,
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"torchrun"', '"torchrum"', "launch.runner: no runner 'torchrum' (did you mean 'torchrun'?)"),
        ('["train.py", "--checkpoint-dir", "/checkpoints"]', "[]", "launch.command: must not be empty"),
        ('["train.py",', '["--nproc-per-node",', "begins with '-' and could be taken as an option"),
        ('"/checkpoints" }', '"checkpoints" }', "launch.mounts"),
        ('"/checkpoints" }', '"/a/../../etc" }', "launch.mounts"),
        ("{ checkpoints =", '{ "../../../.ssh" =', "launch.mounts.../../../.ssh: the name of a mount"),
        ("{ checkpoints =", '{ "/root/.ssh" =', "launch.mounts./root/.ssh: the name of a mount"),
        ("{ checkpoints =", '{ ".." =', "launch.mounts...: the name of a mount"),
        ("{ checkpoints =", '{ "" =', "launch.mounts.: the name of a mount"),
        ("shared_memory_gib = 2", "shared_memory_gib = 0", "launch.shared_memory_gib: must be at least 1"),
        ("shared_memory_gib = 2", 'without = { slrm = "no" }', "no launcher 'slrm' (did you mean 'slurm'?)"),
        ("shared_memory_gib = 2", 'folder = "workload"', "launch.folder: 'workload' must match"),
        ("runner =", "runer =", "launch.runer: unknown key (did you mean 'runner'?)"),
    ],
)
def test_invalid_launch_section_is_refused(repository: Repository, old: str, new: str, expected: str) -> None:
    assert old in SECTION
    with_launch(repository, SECTION.replace(old, new))
    with pytest.raises(CatalogError) as caught:
        repository.load()
    assert any(expected in problem for problem in caught.value.problems)


def test_launch_section_without_a_workload_is_refused(repository: Repository) -> None:
    repository.replace("catalog/targets/hello.toml", 'workload = "hello"', "")
    with_launch(repository, SECTION)
    with pytest.raises(CatalogError) as caught:
        repository.load()
    assert caught.value.problems == ("targets/hello.toml: launch: needs a workload, whose program it starts",)


def test_launch_folder_is_the_working_directory_of_the_image(root: Path) -> None:
    for target in catalog.load(root).targets.values():
        if target.launch:
            text = (root / "containers" / target.workload / "Dockerfile").read_text(encoding="utf-8")
            assert re.findall(r"^WORKDIR (.*)$", text, re.MULTILINE)[-1] == target.launch.folder


@pytest.mark.parametrize("name", ["cpu-ddp", "pytorch-fsdp"])
def test_command_line_has_runner_program_and_arguments(name: str, root: object) -> None:
    launch = catalog.load(root).targets[name].launch  # type: ignore[arg-type]
    assert launch
    assert command_line(launch, processes="4", arguments=["--steps", "3"]) == [
        *("torchrun", "--standalone", "--nproc-per-node", "4", "--"),
        *("train.py", "--checkpoint-dir", "/checkpoints", "--steps", "3"),
    ]
