"""`builder squashfs TARGET`: writes a published image as a squashfs file for enroot and pyxis."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from builder.adapters.container.squashfs import is_complete, write_squashfs
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import open_run
from builder.app.context import (
    add_flavour,
    add_json,
    add_targets,
    find_one_target,
    open_context,
    parser,
    print_json,
)
from builder.app.interrupts import interruptible
from builder.app.launching import find_image
from builder.app.production import clear_dead
from builder.errors import MissingError, UsageError, system_errors
from builder.launch.job import squashfs_name


def options() -> argparse.ArgumentParser:
    found = parser(
        "squashfs",
        "Write the published image of a target's newest receipt as a squashfs file, named by its digest, for"
        " nodes without access to the registry. Keeps environment and labels. Prints the path.",
    )
    add_targets(found)
    add_flavour(found)
    found.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="folder of the file (default: out/squashfs)"
    )
    add_json(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    context = open_context(parsed)
    target = context.catalog.targets[find_one_target(context, parsed, verb="squashfs")]
    if target.launch is None:
        raise UsageError(
            f"target '{target.name}' has no [launch] section, so nodes do not run it",
            hint=f"builder show {target.name}",
        )
    image, reference = find_image(context, target)
    engine = Engine()
    if engine.inspect_image(reference) is None:
        raise MissingError(
            f"the image of run {image.run} is not in this engine",
            hint=f"builder build {target.name} --flavour {image.flavour} --publish",
        )
    folder = parsed.output or context.workspace.out / "squashfs"
    path = folder / squashfs_name(image)
    with system_errors(UsageError):
        is_written = is_complete(path)
    if not is_written:
        with interruptible():
            clear_dead(context.workspace)
            with open_run(context.workspace, f"squashfs-{target.name}") as opened:
                write_squashfs(engine, opened, reference, path)
    if parsed.json:
        print_json(parsed, {"target": target.name, "image": image.name, "file": str(path)})
    else:
        print(path)
    return 0
