"""`builder plan`: shows what a build would make, reuse and download, and why."""

import argparse
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from builder.adapters.container.finder import EngineFinder, has_layer
from builder.adapters.engine.client import Engine
from builder.adapters.host.receipts import Receipts
from builder.app.context import (
    Context,
    add_json,
    add_site,
    add_targets,
    base_facts,
    find_targets,
    open_context,
    parser,
    print_facts,
    print_json,
    print_table,
    print_verdict,
)
from builder.app.golden import write_golden_plans
from builder.app.lanes.lane import Request
from builder.app.lanes.table import open_lane, open_lanes, require_possible, require_supported
from builder.app.outlook import Outlook
from builder.errors import UsageError, with_result
from builder.lock import LOCAL
from builder.model import Layer, Plan
from builder.plan import LOST, explain, to_json, to_rebuild


def options() -> argparse.ArgumentParser:
    found = parser(
        "plan",
        "Show what a build would make, reuse and download, and why. Where a build would refuse, its reason"
        " follows, with its exit code.",
    )
    add_targets(found)
    add_json(found, "print the plans as JSON")
    found.add_argument("--publish", action="store_true", help="include the AWS calls that publish an AMI")
    found.add_argument(
        "--write-golden",
        type=Path,
        metavar="FOLDER",
        help="write golden plans of the given targets or of all: for x86_64, without digests",
    )
    add_site(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    context = open_context(parsed)
    if parsed.write_golden:
        return _write_golden(context, parsed)
    plans = context.plans(find_targets(context, parsed, verb="plan"))
    if not parsed.json:
        return show_plans(context, plans, Request(publish=parsed.publish))
    tables = []
    request = Request(publish=parsed.publish)
    for plan, states, outlook in _with_states(context, plans, request):
        table = _as_json(context, plan, states)
        if outlook and outlook.text:
            table["checkpoint"] = outlook.as_json()
        if calls := _changing_calls(context, plan, publish=parsed.publish):
            table["changing_calls"] = [{"service": service, "call": call} for service, call in calls]
        tables.append(table)
    with with_result(tables):
        require_possible(context, plans)
    print_json(parsed, tables)
    return 0


def show_plans(context: Context, plans: Sequence[Plan], request: Request) -> int:
    """Print what a build would do; then raise an error if the build would refuse one of the plans."""
    require_supported(open_lanes(context, plans, threading.Event()), plans, request)
    for plan, states, outlook in _with_states(context, plans, request):
        _print(context, plan, states, outlook, publish=request.publish)
    require_possible(context, plans)
    return 0


def _with_states(
    context: Context, plans: Sequence[Plan], request: Request
) -> Iterator[tuple[Plan, list[tuple[str, str]], Outlook | None]]:
    finder = EngineFinder(Engine())
    for plan in plans:
        outlook = open_lane(plan.target.kind, context).outlook(plan, request)
        yield plan, _states(context, plan, finder, to_rebuild(plan, request.rebuild), outlook), outlook


def _print(
    context: Context,
    plan: Plan,
    states: list[tuple[str, str]],
    outlook: Outlook | None,
    *,
    publish: bool,
) -> None:
    print(f"{plan.target.name} ({plan.flavour.name}: {plan.system.name}, {plan.stack.name}, {plan.arch})\n")
    rows = [
        (layer.name, layer.components, layer.key[:12], *state)
        for layer, state in zip(plan.layers, states, strict=True)
    ]
    if found := base_facts(plan):
        print_facts(found)
        print()
    print_table(("layer", "components", "key", "", "why"), rows)
    print_verdict(plan)
    downloads = _downloads(context, plan, states)
    print()
    if downloads:
        print_table(("would be downloaded", "from"), downloads)
    else:
        print("nothing would be downloaded")
    if outlook and outlook.text:
        print()
        print_facts([("checkpoint", outlook.text)])
    if calls := _changing_calls(context, plan, publish=publish):
        names = [action for _, action in calls]
        account = "the rehearsed account" if context.site_name == LOCAL else "the account"
        print()
        print_facts([("AWS calls", f"that would change {account}: {', '.join(names)}")])
    print()


def _write_golden(context: Context, parsed: argparse.Namespace) -> int:
    """Write one golden plan per flavour, the same on every machine."""
    folder, given = parsed.write_golden, parsed.targets or parsed.target
    if parsed.flavour or parsed.json or parsed.publish or parsed.site:
        raise UsageError(
            "builder plan: --write-golden is not allowed with --flavour, --json, --publish or --site",
            hint=f"builder plan --write-golden {folder}",
        )
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"--write-golden: {folder} is not a folder", hint=f"ls -l {folder}")
    if not folder.is_dir():
        raise UsageError(f"--write-golden: no folder {folder}", hint=f"mkdir -p {folder}")
    names = find_targets(context, parsed, verb="plan") if given else ()
    for path in write_golden_plans(context, names or context.catalog.targets, folder):
        print(path)
    return 0


def _changing_calls(context: Context, plan: Plan, *, publish: bool) -> Sequence[tuple[str, str]]:
    return open_lane(plan.target.kind, context).changing_calls(plan, publish=publish)


def _states(
    context: Context,
    plan: Plan,
    finder: EngineFinder,
    due: Mapping[str, str],
    outlook: Outlook | None,
) -> list[tuple[str, str]]:
    """Return ("build" or "reuse", reason) for every layer; all layers below an existing layer are reused.

    `due` has the layers to build even if they exist; `outlook` has the image that an AMI build starts from.
    """
    before = Receipts(context.workspace, root=context.root).last_layers(plan.target.name)
    source, lost = (
        (outlook.source, "unchanged, but in no checkpoint") if outlook else ("in this engine", LOST)
    )
    present = [
        layer.name == outlook.layer if outlook else layer.key not in due and has_layer(finder.images, layer)
        for layer in plan.layers
    ]
    top = max((i for i, exists in enumerate(present) if exists), default=-1)
    return [
        ("build", due.get(layer.key) or explain(layer, before, lost=lost))
        if i > top
        else ("reuse", source if present[i] else "not needed: a later layer exists")
        for i, layer in enumerate(plan.layers)
    ]


def _downloads(context: Context, plan: Plan, states: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (download, source) for each download of the missing layers, including cached downloads."""
    missing = [layer for layer, (state, _) in zip(plan.layers, states, strict=True) if state == "build"]
    return [download for layer in missing for download in _of_layer(context, plan, layer)]


def _of_layer(context: Context, plan: Plan, layer: Layer) -> list[tuple[str, str]]:
    if layer.kind == "base":
        if source := open_lane(plan.target.kind, context).base_source(plan):
            return list(source)
        if plan.system.image:
            return [(f"image {plan.system.image}", "its registry")]
        if plan.system.bootstrap is None:
            return [(f"base image of {plan.system.name}", "AMI in an AWS account")]
        packages = ", ".join(plan.system.bootstrap.packages)
        return [(f"{plan.system.bootstrap.suite}: essential packages, {packages}", "package archive")]
    found = [
        (f"{name} {plan.versions[name]}", "package archive")
        for name in layer.components
        if name in plan.versions
    ]
    for name in layer.components:
        found += _addresses(layer.variables.get(f"{name}_downloads"))
        lines = layer.variables.get(f"{name}_requirements")
        if isinstance(lines, list):
            found += [(str(line).split()[0], "Python index, by hash") for line in lines]
    return found


def _addresses(downloads: object) -> list[tuple[str, str]]:
    """Return (URL, pin) of each download in the role variable that lists downloads."""
    if not isinstance(downloads, dict):
        return []
    return [
        (str(entry["url"]), f"commit {entry['commit'][:12]}" if "commit" in entry else "by sha256")
        for entry in downloads.values()
        if "sha256" in entry or "commit" in entry
    ]


def _as_json(context: Context, plan: Plan, states: list[tuple[str, str]]) -> dict[str, object]:
    layers = [
        {"name": layer.name, "key": layer.key, "state": state, "why": why}
        for layer, (state, why) in zip(plan.layers, states, strict=True)
    ]
    downloads = [{"what": what, "from": source} for what, source in _downloads(context, plan, states)]
    return {
        "target": plan.target.name,
        "key": plan.key,
        "layers": layers,
        "downloads": downloads,
        "plan": to_json(plan),
    }
