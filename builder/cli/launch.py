"""`builder launch TARGET`: prints the file that starts a published image on a cluster."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from builder.adapters.host.workspace import write_atomically
from builder.app.context import (
    add_flavour,
    add_json,
    add_targets,
    find_one_target,
    open_context,
    parser,
    print_json,
)
from builder.app.launch_checking import check_file
from builder.app.launch_registry import require_in_registry
from builder.app.launching import find_instance, is_local, kind_of, launch_file, text_of
from builder.app.program_options import folders_by_mount, program_arguments
from builder.errors import CheckError, UsageError, system_errors, with_result
from builder.launch.files import KUBERNETES, SLURM
from builder.launch.job import MOST_NODES, Wish
from builder.launch.kubernetes import KINDS
from builder.launch.section import LAUNCHERS
from builder.reading import shortened
from builder.screen.text import clean, count

# Options that do not apply to --check, by the name of their value.
_UNCHECKED = {
    **{name: f"--{name}" for name in ("on", "flavour", "nodes", "processes", "image", "runtime", "mount")},
    "kind": "--as",
    "output": "--output",
}
_FOLDER = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")


def options() -> argparse.ArgumentParser:
    found = parser(
        "launch",
        "Print the file that starts a published image on a cluster, from its newest receipt: image by digest,"
        " environment by the rules, counts of the instance type. Arguments after -- go to the program.",
    )
    add_targets(found)
    add_flavour(found)
    found.add_argument("--on", choices=tuple(LAUNCHERS), help="what starts the job")
    found.add_argument("--instance", metavar="TYPE", help="EC2 type of the nodes")
    found.add_argument("--nodes", type=_nodes, default=1, metavar="N", help="number of nodes (default: 1)")
    found.add_argument(
        "--processes",
        type=_processes,
        default=0,
        metavar="N",
        help="processes per node (default: one per GPU or NeuronCore; 1 on other types)",
    )
    found.add_argument(
        "--as",
        dest="kind",
        choices=tuple(dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds)),
        help="kind of the Kubernetes object (default: that of the runner)",
    )
    found.add_argument(
        "--image",
        choices=("registry", "squashfs"),
        help="Slurm: pull the image on every node (default), or read a squashfs file in /fsx/images",
    )
    found.add_argument(
        "--runtime",
        choices=("pyxis", "none"),
        help="Slurm: start a container (default), or the program of an unpacked image in $IMAGE_ROOT",
    )
    found.add_argument(
        "--mount",
        action="append",
        default=[],
        type=_mount,
        metavar="NAME=FOLDER",
        help="folder on the nodes for a mount of the target; on Kubernetes its first part is the claim"
        " (default: /fsx/TARGET/NAME)",
    )
    found.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="write the file there and print its path"
    )
    found.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="compare a launch file with its image and its EC2 type instead, and print the differences",
    )
    add_json(found, "print the file, the image and the command that submits the file as JSON")
    return found


def run(argv: Sequence[str]) -> int:
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    parsed = options().parse_args(words[:at])
    if parsed.check:
        return _check(parsed, ["--"] if at < len(words) else [])
    if missing := [name for name in ("--on", "--instance") if not getattr(parsed, name[2:])]:
        raise UsageError(
            f"builder launch: the following arguments are required: {', '.join(missing)}",
            hint="builder launch --help",
        )
    _require_matching(parsed)
    arguments, folders = program_arguments(words[at + 1 :]), folders_by_mount(parsed.mount)
    context = open_context(parsed)
    target = context.catalog.targets[find_one_target(context, parsed, verb="launch")]
    wish = Wish(
        nodes=parsed.nodes,
        processes=parsed.processes,
        kind=kind_of(target, parsed.kind or "") if parsed.on in KUBERNETES else "",
        is_squashfs=parsed.image == "squashfs",
        has_runtime=parsed.runtime != "none",
        folders=folders,
        arguments=arguments,
    )
    job, file = launch_file(context, target, find_instance(context, parsed.instance), parsed.on, wish)
    is_pulled = not job.is_squashfs and job.has_runtime
    if is_pulled:
        require_in_registry(context, job.image)
    if is_pulled and is_local(job.image.name):
        print(
            f"note: {job.image.name} is in a registry of this machine; other nodes cannot pull it",
            file=sys.stderr,
        )
    text = text_of(job, file)
    path = parsed.output / file.name if parsed.output else None
    if path:
        with system_errors(UsageError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
    if parsed.json:
        result = {
            "target": target.name,
            "flavour": job.image.flavour,
            "launcher": parsed.on,
            "image": job.image.name,
            "key": job.image.key,
            "run": job.image.run,
            "file": str(path or file.name),
            "text": text,
            "submit": file.submit,
        }
        print_json(parsed, result)
    else:
        print(path or text, end="\n" if path else "")
    return 0


def _check(parsed: argparse.Namespace, more: Sequence[str]) -> int:
    default = options().get_default
    given = [option for name, option in _UNCHECKED.items() if getattr(parsed, name) != default(name)]
    if given := [*parsed.targets, *parsed.target, *given, *more]:
        raise UsageError(
            f"--check reads all but --instance from the file: remove {given[0]}",
            hint=f"builder launch --check {shlex.quote(str(parsed.check))}",
        )
    checked = check_file(open_context(parsed), parsed.check, parsed.instance or "")
    result = {
        "file": str(parsed.check),
        "target": checked.target,
        "instance": checked.instance,
        "image": checked.image,
        "findings": [asdict(found) for found in checked.findings],
    }
    if not parsed.json:
        for found in checked.findings:
            print(clean(f"{parsed.check}: {found.place}: {found.message}. Fix: {found.hint}"))
    if checked.findings:
        with with_result(result):
            raise CheckError(
                f"{parsed.check}: {count(len(checked.findings), 'finding')} for {checked.image}"
                f" on {checked.instance}",
                hint=f"correct the file, or write a new one: builder launch {checked.target} --help",
            )
    if parsed.json:
        print_json(parsed, result)
    else:
        print(f"{parsed.check} fits {checked.image} on {checked.instance}")
    return 0


def _require_matching(parsed: argparse.Namespace) -> None:
    """Raise UsageError if an option does not apply to the launcher selected with --on."""
    for option, value, services in (
        ("--as", parsed.kind, KUBERNETES),
        ("--image", parsed.image, SLURM),
        ("--runtime", parsed.runtime, SLURM),
    ):
        if value and parsed.on not in services:
            raise UsageError(
                f"{option} {value}: is not supported with --on {parsed.on}",
                hint=f"--on {services[0]}, or leave out {option}",
            )
    if parsed.runtime == "none" and parsed.image:
        raise UsageError(
            "--image has no effect with --runtime none, which starts an unpacked image",
            hint="leave out --image, or --runtime none",
        )


def _nodes(text: str) -> int:
    return _number(text, most=MOST_NODES)


def _processes(text: str) -> int:
    return _number(text, most=9999)


def _number(text: str, *, most: int) -> int:
    if not re.fullmatch(r"[1-9]\d{0,4}", text, re.ASCII) or int(text) > most:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {most}, not {shortened(text)}")
    return int(text)


def _mount(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not name or not _FOLDER.fullmatch(folder) or ".." in PurePosixPath(folder).parts:
        raise argparse.ArgumentTypeError(
            "must be NAME=FOLDER with an absolute path of letters, digits, '.', '_' and '-',"
            f" not {shortened(text)}"
        )
    return name, folder
