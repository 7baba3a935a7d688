"""Starts a Slurm cluster on this machine whose nodes are modelled on an EC2 type."""

import sys
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import open_run
from builder.adapters.upstream import mirror
from builder.app.context import Context
from builder.app.interrupts import interruptible
from builder.app.launching import find_instance
from builder.app.rehearsal import DEFAULT, require_local
from builder.arch import of_this_machine
from builder.errors import IncompatibleError, UsageError
from builder.launch.job import require_facts
from builder.model import Instance, Stack, System
from builder.rehearsal import cluster, slurm
from builder.rehearsal.cluster import Cluster, Shape
from builder.rehearsal.ec2.machine import ensure
from builder.tables import did_you_mean

SYSTEMS = ("debian-12", "debian-13")  # systems with machine images and packages of Slurm


def ensure_cluster(
    context: Context, instance_name: str, *, name: str = DEFAULT, nodes: int, system: str, shared: Path | None
) -> Cluster:
    """Return the cluster `name`, started if it is not running; remove the containers of dead clusters."""
    instance = _instance(context, instance_name)
    found = _system(context, system)
    folder = (shared or context.workspace.out / "clusters" / name).resolve()
    shape = Shape(instance=instance.name, nodes=nodes, system=system, shared=str(folder))
    engine = Engine()
    require_local(engine)
    with interruptible():
        for dead in cluster.dead(context.workspace, engine):
            cluster.remove_dead(context.workspace, engine, dead)
            print(f"cluster '{dead}' was not running: removed its containers", file=sys.stderr)
        return cluster.up(
            context.workspace,
            engine,
            name,
            shape,
            instance=instance,
            image=_image(context, engine, found),
            release=int(found.release),
        )


def _instance(context: Context, name: str) -> Instance:
    instance = find_instance(context, name)
    require_facts(instance)
    if instance.arch != of_this_machine():
        raise IncompatibleError(
            f"{name} is {instance.arch}, but this machine is {of_this_machine()} and cannot run its programs",
            hint=f"choose an {of_this_machine()} type",
        )
    return instance


def _system(context: Context, name: str) -> System:
    if name not in SYSTEMS or name not in context.catalog.systems:
        raise UsageError(
            f"--system {name}: no machine image with Slurm for '{name}'{did_you_mean(name, SYSTEMS)}",
            hint=f"--system {SYSTEMS[0]}",
        )
    return context.catalog.systems[name]


def _image(context: Context, engine: Engine, system: System) -> str:
    """Return the machine image with Slurm; build it if the engine has none, which takes a minute."""
    packages = mirror.discover(context.site.mirror, system, Stack(name="", summary="", pins={}))
    with open_run(context.workspace, "rehearse-cluster") as run:
        return ensure(
            engine, run, system, packages, lambda line: print(line, file=sys.stderr), slurm.SOFTWARE
        )
