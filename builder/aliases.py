"""Load `catalog/aliases.toml`: further names of targets."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from builder.tables import STRINGS, Problems, Shape, read_table

FILE = "aliases.toml"
_SHAPE: Shape = {"aliases": (STRINGS, True)}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def read_aliases(folder: Path, problems: Problems) -> dict[str, str]:
    """Return the target of each alias; a catalog without the file has no aliases."""
    if not (folder / FILE).exists():
        return {}
    aliases: dict[str, str] = dict(read_table(folder, FILE, _SHAPE, problems).get("aliases", {}))
    for alias in aliases:
        if not _NAME.fullmatch(alias):
            problems.add(FILE, f"aliases.{alias}", f"must match {_NAME.pattern}")
    return aliases


def check_aliases(
    aliases: Mapping[str, str], targets: Collection[str], broken: Collection[str], problems: Problems
) -> None:
    """Add a problem for each alias that is the name of a target, or whose target does not exist."""
    for alias, target in aliases.items():
        key = f"aliases.{alias}"
        if alias in targets or f"targets/{alias}.toml" in broken:
            problems.add(FILE, key, f"'{alias}' is the name of a target")
        elif target not in targets and f"targets/{target}.toml" not in broken:
            problems.unknown(FILE, key, "target", target, targets)
