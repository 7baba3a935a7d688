"""How long a build will take, from the receipts of earlier builds of the same targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.adapters.host import receipts

_CHECKS, _PUBLISH = "checks", "publish"


def estimate_s(out: Path, missing: Mapping[str, Sequence[str]], *, publish: bool, jobs: int) -> float | None:
    """Estimate the seconds to build the `missing` layers; None if no receipt has the duration of a step."""
    totals = []
    for target, layers in missing.items():
        steps = [*layers, _CHECKS, *([_PUBLISH] if publish else [])]
        known = _seconds(out, target)
        if not all(step in known for step in steps):
            return None
        totals.append(sum(known[step] for step in steps))
    return max(max(totals), sum(totals) / jobs) if totals else None


def _seconds(out: Path, target: str) -> dict[str, float]:
    """Return the duration of each step of a target, from the newest receipt with that step."""
    found: dict[str, float] = {}
    paths = sorted((out / "receipts" / target).glob("*.json"), key=lambda path: -path.stat().st_mtime)
    for table in filter(None, map(receipts.read, paths)):
        for step, seconds in _of_receipt(table).items():
            found.setdefault(step, seconds)
    return found


def _of_receipt(table: Mapping[str, Any]) -> dict[str, float]:
    made = {
        str(layer["name"]): float(layer["seconds"])
        for layer in table["artifact"].get("layers", ())
        if layer.get("outcome") == "built"
    }
    if report := table.get("report"):
        made[_CHECKS] = float(report["seconds"])
    if sent := [item for item in table.get("publications", ()) if item.get("run") == table.get("run")]:
        made[_PUBLISH] = float(sent[0]["seconds"])
    return made
