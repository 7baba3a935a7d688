"""`builder rehearse cluster`: a Slurm cluster on this machine whose nodes are modelled on an EC2 type."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.app.actions import Action
from builder.app.cluster import SYSTEMS, ensure_cluster
from builder.app.context import add_json, open_context, parser, print_json, print_table
from builder.app.interrupts import interruptible
from builder.app.rehearsal import DEFAULT
from builder.errors import MissingError, UsageError, system_errors
from builder.rehearsal import cluster
from builder.rehearsal.cluster import Cluster
from builder.rehearsal.slurm import SHARED

_MOST_NODES = 16


def _options(action: str, description: str) -> argparse.ArgumentParser:
    found = parser(f"rehearse cluster {action}", description)
    found.add_argument(
        "--name",
        default=DEFAULT,
        metavar="CLUSTER",
        help="name of the cluster; several can run at once (default: %(default)s)",
    )
    return found


def _up_options() -> argparse.ArgumentParser:
    found = _options(
        "up",
        "Start a Slurm cluster of containers, unless it runs. Its nodes declare the processors, memory and"
        " GPUs of an EC2 type, so Slurm accepts what it would accept there. Prints the folder that all"
        " machines mount.",
    )
    found.add_argument("--instance", required=True, metavar="TYPE", help="EC2 type of the nodes")
    found.add_argument(
        "--nodes", type=_nodes, default=2, metavar="N", help="number of nodes (default: %(default)s)"
    )
    found.add_argument(
        "--system",
        default=SYSTEMS[0],
        metavar="SYSTEM",
        help="Debian of the machines; programs of images with this system run on it (default: %(default)s)",
    )
    found.add_argument(
        "--shared",
        type=Path,
        metavar="FOLDER",
        help=f"folder of this machine that is {SHARED} on all machines (default: out/clusters/CLUSTER)",
    )
    add_json(found)
    return found


def _nodes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:4]) <= _MOST_NODES:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MOST_NODES}, not '{text}'")
    return int(text)


def _up(parsed: argparse.Namespace) -> int:
    with system_errors(UsageError):
        found = ensure_cluster(
            open_context(parsed),
            parsed.instance,
            name=parsed.name,
            nodes=parsed.nodes,
            system=parsed.system,
            shared=parsed.shared,
        )
    if parsed.json:
        print_json(parsed, _as_json(found, Engine()))
    else:
        _describe(found)
    return 0


def _describe(found: Cluster) -> None:
    """Print the shared folder on stdout; print the cluster's nodes and example commands on stderr."""
    print(found.shape.shared)
    option = "" if found.name == DEFAULT else f" --name {found.name}"
    lines = [
        f"cluster '{found.name}' has {found.shape.nodes} nodes like {found.shape.instance}",
        f"the folder above is {SHARED} on all machines",
        f"submit a job of it: builder rehearse cluster exec{option} -- sbatch JOB.sbatch",
        f"stop it with: builder rehearse cluster down{option}",
    ]
    print("\n".join(lines), file=sys.stderr)


def _as_json(found: Cluster, engine: Engine) -> dict[str, object]:
    return {
        "name": found.name,
        "running": True,
        "instance": found.shape.instance,
        "system": found.shape.system,
        "shared": found.shape.shared,
        "nodes": found.nodes(engine),
    }


def _down(parsed: argparse.Namespace) -> int:
    with interruptible():
        existed = cluster.down(open_context(parsed).workspace, Engine(), parsed.name)
    text = "stopped; the files of its shared folder stay" if existed else "was not running"
    print(f"cluster '{parsed.name}' {text}", file=sys.stderr)
    if parsed.json:
        print_json(parsed, {"name": parsed.name, "running": False})
    return 0


def _status(parsed: argparse.Namespace) -> int:
    engine = Engine()
    found = cluster.find(open_context(parsed).workspace, engine, parsed.name)
    code = 0 if found else MissingError.exit_code
    if parsed.json:
        table = _as_json(found, engine) if found else {"name": parsed.name, "running": False}
        print_json(parsed, table, exit_code=code)
    elif found is None:
        print("not running")
    else:
        _describe(found)
        nodes = [tuple(node.values()) for node in found.nodes(engine)]
        print_table(("node", "state", "vCPUs", "memory (MiB)", "GPUs"), nodes)
    return code


def _exec_options() -> argparse.ArgumentParser:
    return _options(
        "exec",
        "Run the command after -- on the head of the cluster, such as sbatch, squeue or scontrol, as your"
        f" user and in {SHARED}. The exit code is that of the command.",
    )


def _exec(parsed: argparse.Namespace) -> int:
    option = "" if parsed.name == DEFAULT else f" --name {parsed.name}"
    if not parsed.words:
        raise UsageError("no command after --", hint=f"builder rehearse cluster exec{option} -- squeue")
    engine = Engine()
    found = cluster.find(open_context(parsed).workspace, engine, parsed.name)
    if found is None:
        raise MissingError(
            f"the cluster '{parsed.name}' is not running",
            hint=f"builder rehearse cluster up{option} --instance TYPE",
        )
    return found.execute(engine, parsed.words, print)


ACTIONS: Mapping[str, Action] = {
    "cluster up": Action("start a Slurm cluster with nodes like an EC2 type", _up_options, _up),
    "cluster down": Action(
        "stop the cluster; keep its shared folder",
        lambda: _with_json("down", "Stop the cluster and remove its containers. Keeps the shared folder."),
        _down,
    ),
    "cluster status": Action(
        "show its nodes and their states",
        lambda: _with_json("status", "Show the nodes of the cluster and their states."),
        _status,
    ),
    "cluster exec": Action("run a command of Slurm on its head", _exec_options, _exec, passes_on=True),
}


def _with_json(action: str, description: str) -> argparse.ArgumentParser:
    found = _options(action, description)
    add_json(found)
    return found
