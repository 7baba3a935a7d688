#!/usr/bin/env python3
"""Build and check every container image of the catalog, one after the other, and print a table.

An image is removed after its checks, a layer when no later image needs it. Results are kept in
out/images.json by the key of the image, so that an interrupted run can be resumed. Images that cannot
be built are listed with the reason.

With --reproduce, all layers are built twice, and an image fails if its two builds differ.

usage: scripts/images.py [--reproduce] [TARGET | TARGET@FLAVOUR]...
"""

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.adapters.engine.client import LAYERS, Engine, built_by
from builder.adapters.host import process
from builder.adapters.host.workspace import write_atomically
from builder.app.context import Context
from builder.errors import FactoryError, UsageError
from builder.model import Plan
from builder.plan import find_target
from builder.screen.tables import table
from builder.screen.text import duration, look, size

_BOUND_S = 4 * 3600
_RESULTS = Path("out", "images.json")
HEADERS = ("target", "flavour", "outcome", "passed", "skipped", "cold", "warm", "size", "why")

Row = Mapping[str, Any]


def name_of(plan: Plan) -> str:
    return f"{plan.target.name}@{plan.flavour.name}"


def selected(context: Context, words: Sequence[str]) -> list[Plan]:
    """Return the plans of the named containers, TARGET or TARGET@FLAVOUR; without names, of all."""
    plans = [
        dataclasses.replace(context, flavour=flavour).plan(target.name)
        for target in context.catalog.targets.values()
        if target.kind == "container"
        for flavour in target.flavours
    ]
    wanted = {
        f"{find_target(context.catalog, name).name}{at}{flavour}"
        for name, at, flavour in (word.partition("@") for word in words)
    }
    found = [plan for plan in plans if not words or {name_of(plan), plan.target.name} & wanted]
    if missing := wanted - {name for plan in found for name in (name_of(plan), plan.target.name)}:
        raise UsageError(f"no container {', '.join(sorted(missing))}", hint="builder list")
    return found


def reason_against(plan: Plan) -> str:
    """Return why an image cannot be built; "" if it can."""
    if plan.errors:
        return plan.errors[0]
    if plan.unlocked:
        inputs = ", ".join(plan.unlocked)
        return f"not locked: {inputs}; on a host that reaches the vendor: builder lock {plan.target.name}"
    return ""


def removable(built: Iterable[str], present: Iterable[str], remaining: Sequence[Plan]) -> set[str]:
    """Return the keys of layers of this run that are in the engine and that no later plan needs."""
    needed = {layer.key for plan in remaining for layer in plan.layers}
    return {*built} & {*present} - needed


def build(root: Path, plan: Plan, *, reproduce: bool = False) -> dict[str, Any]:
    """Build an image twice and return its row: outcome, checks, times, size, and built layers."""
    words = [
        "builder",
        "build",
        plan.target.name,
        "--flavour",
        plan.flavour.name,
        "--json",
        "--root",
        str(root),
    ]
    row: dict[str, Any] = {"target": plan.target.name, "flavour": plan.flavour.name, "key": plan.key}
    first = _call([*words, *(["--reproduce"] if reproduce else [])])
    if first["error"]:
        return row | {"outcome": "failed", "why": first["error"]["message"], "built": []}
    (result,) = first["result"]
    again = _call(words)
    differing = result.get("differences", [])
    return row | {
        "outcome": "passed" if again["exit_code"] == 0 and not differing else "failed",
        "reproduced": reproduce and not differing,
        "passed": result["checks"]["passed"],
        "skipped": result["checks"]["skipped"],
        "cold_s": result["seconds"],
        "warm_s": again["seconds"],
        "size_bytes": _size(plan.key),
        "layers": {layer["name"]: [layer["seconds"], layer["size_bytes"]] for layer in result["layers"]},
        "built": [layer["key"] for layer in result["layers"] if layer["outcome"] != "reused"],
        "why": f"{len(differing)} differences between two builds: {differing[0]}" if differing else "",
    }


def _call(words: Sequence[str]) -> dict[str, Any]:
    """Run `builder` and return its envelope with the seconds that it took."""
    begun = time.monotonic()
    done = process.run(words, timeout_s=_BOUND_S, env=process.inherited_environment())
    lines = reversed(done.output.splitlines())
    envelope = json.loads(next(line for line in lines if line.startswith('{"format"')))
    return {**envelope, "seconds": time.monotonic() - begun}


def _size(key: str) -> int:
    image = Engine().layers().get(key)
    return image.size_bytes if image else 0


def line(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    seconds = [duration(row[key]) if key in row else "" for key in ("cold_s", "warm_s")]
    counts = [str(row.get(key, "")) for key in ("passed", "skipped")]
    stored = size(row["size_bytes"]) if row.get("size_bytes") else ""
    return (row["target"], row["flavour"], row["outcome"], *counts, *seconds, stored, row["why"])


def _clean(
    engine: Engine, checkout: str, plan: Plan, built: Iterable[str], remaining: Sequence[Plan]
) -> None:
    present = engine.layers()
    for key in removable(built, present, remaining):
        for tag in (f"{built_by(checkout)}:{key}", *present[key].tags):
            engine.remove_image(tag)
    for image in engine.images(reference=plan.target.name):
        if not any(tag.startswith(f"{LAYERS}:") for tag in image.tags):
            for tag in image.tags:
                engine.remove_image(tag)


def main(words: Sequence[str]) -> int:
    context = Context(Path(__file__).resolve().parents[1])
    reproduce = "--reproduce" in words
    plans, engine = selected(context, [word for word in words if word != "--reproduce"]), Engine()
    path = context.root / _RESULTS
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows: dict[str, Row] = {}
    built: set[str] = set()
    lowest = free = shutil.disk_usage(context.root).free
    for number, plan in enumerate(plans):
        row = known.get(plan.key, {})
        if why := reason_against(plan):
            row = {
                "target": plan.target.name,
                "flavour": plan.flavour.name,
                "outcome": "unproven",
                "why": why,
            }
        elif row.get("outcome") != "passed" or (reproduce and not row.get("reproduced")):
            row = build(context.root, plan, reproduce=reproduce)
            lowest = min(lowest, shutil.disk_usage(context.root).free)
            known[plan.key] = row
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(known, indent=2) + "\n")
            built |= set(row["built"])
            _clean(engine, context.workspace.checkout, plan, built, plans[number + 1 :])
        rows[name_of(plan)] = row
        print(
            f"{number + 1}/{len(plans)} {name_of(plan)}: {row['outcome']} {row['why']}".rstrip(),
            file=sys.stderr,
        )
    print(table(HEADERS, [line(row) for row in rows.values()], look=look(sys.stdout, {}), prose=("why",)))
    print(f"peak of the disk: {size(free - lowest)}", file=sys.stderr)
    return 5 if any(row["outcome"] == "failed" for row in rows.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except FactoryError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
