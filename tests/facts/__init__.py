"""Facts about releases of upstreams, one table per upstream; stand-ins and checks are tested against them.

Each `[[since]]` of a table has the facts that change with a release; a later release keeps the others.
"""

import tomllib
from pathlib import Path
from typing import Any


def facts_of(upstream: str, version: str) -> dict[str, Any]:
    """Return the facts of a release."""
    table = tomllib.loads(Path(__file__).with_name(f"{upstream}.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for entry in table["since"]:
        if _numbers(entry["version"]) <= _numbers(version):
            found |= entry
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
