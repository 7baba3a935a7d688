"""Test catalog with training targets for every kind of accelerator, and receipts of published images."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.adapters.host.workspace import Workspace
from builder.app.context import Context
from builder.app.launching import kind_of, launch_file
from builder.launch.files import LaunchFile
from builder.launch.job import Job, Wish
from builder.stack.judging import judge

DIGEST = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
KEY = "0" * 64
# Flavour of the target `trainer` → its stack and the EC2 type of its launch files.
FLAVOURS: Mapping[str, tuple[str, str]] = {
    "p5": ("cuda-13.0", "p5.48xlarge"),
    "p6-b300": ("cuda-13.2", "p6-b300.48xlarge"),
    "trn2": ("neuron-2.30", "trn2.48xlarge"),
    "g5": ("cuda-11.8-debian-12", "g5.48xlarge"),
    "cpu": ("cpu-debian-12", "hpc7a.96xlarge"),
}
_TARGET = """\
summary = "trains"
kind = "container"
components = ["base", "workload_env"]
workload = "{workload}"

[launch]
runner = "{runner}"
command = {command}
mounts = {{ checkpoints = "/checkpoints" }}
shared_memory_gib = 16
"""
_FLAVOUR = '\n[flavours."{name}"]\nsummary = "on {name}"\nsystem = "debian-12"\nstack = "{stack}"\n'
TRAIN = '["train.py", "--checkpoint-dir", "/checkpoints"]'
COLLECTIVES = '["all_reduce_perf", "-b", "8", "-e", "2G", "-f", "2"]'


def receipt(context: Context, target: str, flavour: str, **changes: Any) -> dict[str, Any]:
    """Return a receipt with the settings that rules require for jobs; `changes` replace top-level keys."""
    found = context.catalog.targets[target].flavours[flavour]
    stack, system = context.catalog.stacks[found.stack], context.catalog.systems[found.system]
    verdict = judge(context.knowledge, stack, system, kind="container", arch="x86_64", members=())
    plan = {
        "arch": "x86_64",
        "flavour": {"name": flavour},
        "stack": {"name": stack.name, "instances": list(stack.instances)},
        "layers": [{"name": "workload", "key": KEY, "parent": "", "inputs": {}}],
        "settings": {name: list(values) for name, values in verdict.settings.items()},
    }
    check = {"name": "test_a", "component": "base", "outcome": "passed", "seconds": 0.1}
    name = f"{REGISTRY}/{target}@sha256:{DIGEST}"
    return {
        "format": 1,
        "run": "20261130-120000-build-aaaaaa",
        "created": "2026-11-30T12:00:00Z",
        "commit": "",
        "plan": plan,
        "artifact": {"kind": "container", "target": target, "reference": f"sha256:{KEY}", "key": KEY},
        "report": {"reference": f"sha256:{KEY}", "checks": [check], "seconds": 0.1},
        "publications": [{"name": name, "digest": f"sha256:{DIGEST}"}],
        **changes,
    }


def write_receipt(context: Context, table: Mapping[str, Any], name: str) -> Path:
    """Write a receipt into the out/receipts folder of the context's workspace."""
    path = context.workspace.out / "receipts" / str(table["artifact"]["target"]) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))
    return path


def create_site(folder: Path, root: Path) -> Context:
    """Copy the catalog, add a target for every runner, and write a receipt for each flavour."""
    shutil.copytree(root / "catalog", folder / "catalog")
    for name in ("ansible", "containers"):
        (folder / name).symlink_to(root / name)
    flavours = "".join(_FLAVOUR.format(name=name, stack=stack) for name, (stack, _) in FLAVOURS.items())
    for target, runner, command in (
        ("trainer", "torchrun", TRAIN),
        ("collectives", "mpirun", COLLECTIVES),
        ("rayed", "ray", '["/opt/venv/bin/python", "train.py"]'),
        ("single", "none", '["/opt/venv/bin/python", "probe.py"]'),
        ("joined", "node", '["python", "train.py"]'),
    ):
        text = _TARGET.format(workload="pytorch-fsdp", runner=runner, command=command) + flavours
        (folder / f"catalog/targets/{target}.toml").write_text(text)
    context = Context(folder)
    context.__dict__["workspace"] = Workspace(home=folder / "home", out=folder / "out")
    for target in ("trainer", "collectives", "rayed", "single", "joined"):
        for flavour in FLAVOURS:
            write_receipt(context, receipt(context, target, flavour), flavour)
    return context


def make_file(
    context: Context, target: str, flavour: str, service: str, wish: Wish | None = None, *, instance: str = ""
) -> tuple[Job, LaunchFile]:
    """Return the job and the launch file of a flavour, by default for two nodes of the type in FLAVOURS."""
    chosen = Context(context.root, flavour=flavour)
    chosen.__dict__.update(catalog=context.catalog, knowledge=context.knowledge, workspace=context.workspace)
    found = context.catalog.targets[target]
    wish = wish or Wish(nodes=2, kind=kind_of(found, ""))
    return launch_file(
        chosen, found, context.catalog.instances[instance or FLAVOURS[flavour][1]], service, wish
    )
