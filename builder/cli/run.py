"""`builder run TARGET`: runs a built training image on this machine."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import open_run
from builder.app.context import add_flavour, add_targets, find_one_target, open_context, parser
from builder.app.interrupts import interruptible
from builder.app.production import clear_dead
from builder.app.program_options import folders_by_mount, program_arguments
from builder.app.running import Wish, image_of, run_image
from builder.errors import UsageError
from builder.reading import shortened


def options() -> argparse.ArgumentParser:
    found = parser(
        "run",
        "Run the program of a built training image with the target's launcher, and the user and group of the"
        " caller. Arguments after -- go to the program. The exit code is that of the program.",
    )
    add_targets(found)
    add_flavour(found)
    found.add_argument(
        "--processes",
        type=_count,
        metavar="N",
        help="processes (default: one per GPU with --gpus, otherwise 2)",
    )
    found.add_argument("--gpus", type=_gpus, metavar="N", help="GPUs for the container: a number, or all")
    found.add_argument(
        "--mount",
        action="append",
        default=[],
        type=_mount,
        metavar="NAME=FOLDER",
        help="folder of this machine for a mount of the target (default: out/volumes/TARGET/NAME)",
    )
    return found


def run(argv: Sequence[str]) -> int:
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    parsed = options().parse_args(words[:at])
    mounts, arguments = folders_by_mount(parsed.mount), program_arguments(words[at + 1 :])
    context = open_context(parsed)
    plan = context.plan(find_one_target(context, parsed, verb="run"))
    launch = plan.target.launch
    if launch is None:
        raise UsageError(
            f"target '{plan.target.name}' has no [launch] section, so it has no program to run",
            hint=f"builder show {plan.target.name}",
        )
    engine = Engine()
    image = image_of(engine, plan)
    wish = Wish(
        processes=parsed.processes or "",
        gpus=parsed.gpus or "",
        mounts=mounts,
        arguments=arguments,
    )
    with interruptible():
        clear_dead(context.workspace)
        with open_run(context.workspace, f"run-{plan.target.name}") as opened:
            return run_image(engine, opened, image, plan.target.name, launch, wish)


def _count(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 9999, not {shortened(text)}")
    return text


def _gpus(text: str) -> str:
    return text if text == "all" else _count(text)


def _mount(text: str) -> tuple[str, Path]:
    name, found, folder = text.partition("=")
    if not found or not name or not folder:
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, not {shortened(text)}")
    try:
        return name, Path(folder).expanduser().absolute()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{shortened(folder)}: no such user") from error
