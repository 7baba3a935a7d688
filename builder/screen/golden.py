"""Write plans as golden files: without digests and dates, so that a diff shows only real changes."""

import json
from pathlib import Path
from typing import Any

from builder.model import Catalog, Plan
from builder.plan import to_json

# Keys of a system that are set only for vendors' base images.
_OF_VENDORS = ("contains", "distributions")


def golden(plan: Plan) -> dict[str, Any]:
    """Return the plan without the values that change with every edit of a role or of the lock."""
    table = to_json(plan)
    system = table["system"]
    table["system"] = {key: value for key, value in system.items() if value or key not in _OF_VENDORS}
    table["suites"] = [suite["name"] for suite in table["suites"]]
    for layer in table["layers"]:
        layer["inputs"] = sorted(layer["inputs"])
        del layer["key"], layer["parent"]
        for name in ("environment", "checkpoint"):
            if not layer[name]:
                del layer[name]
        layer["variables"] = {
            key: [line.split()[0] for line in value] if key.endswith("_requirements") else value
            for key, value in layer["variables"].items()
        }
    del table["checks"]
    table["stack"].pop("requirements")
    return table


def golden_names(catalog: Catalog) -> dict[str, tuple[str, str]]:
    """Map golden file stems to (target, flavour): TARGET for the default flavour, else TARGET@FLAVOUR."""
    return {
        name if flavour == target.default.name else f"{name}@{flavour}": (name, flavour)
        for name, target in catalog.targets.items()
        for flavour in target.flavours
    }


def write_golden(plan: Plan, folder: Path, name: str) -> Path:
    """Write the golden file of a plan and return its path."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(golden(plan), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
