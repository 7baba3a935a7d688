"""Write the golden plans of targets, the same on every machine."""

import dataclasses
from collections.abc import Container
from pathlib import Path

from builder.app.context import Context
from builder.screen.golden import golden_names, write_golden

# Folder of golden plans; a repository without this folder has no golden plans.
FOLDER = Path("tests", "golden")


def write_golden_plans(context: Context, names: Container[str], folder: Path) -> list[Path]:
    """Write one golden plan per flavour of the named targets; return the paths of the written files."""
    return [
        write_golden(dataclasses.replace(context, arch="x86_64", flavour=flavour).plan(target), folder, file)
        for file, (target, flavour) in golden_names(context.catalog).items()
        if target in names
    ]


def update_golden_plans(context: Context, names: Container[str]) -> list[Path]:
    """Write the golden plans of targets if the repository has such plans; return the paths that changed."""
    folder = context.root / FOLDER
    if not folder.is_dir():
        return []
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    written = write_golden_plans(context, names, folder)
    return [path for path in written if before.get(path) != path.read_bytes()]
