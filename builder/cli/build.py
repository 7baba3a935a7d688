"""`builder build`: makes, checks and publishes targets."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import builder
from builder import site
from builder.adapters.engine.client import LAYERS, UNIX, Engine
from builder.app.context import Context, add_json, add_site, add_targets, find_targets, open_context, parser
from builder.app.lanes.lane import Request
from builder.app.lanes.table import open_lane, require_possible
from builder.app.session import build
from builder.cli import unchanged
from builder.cli.plan import show_plans
from builder.errors import CatalogError, FactoryError, IncompatibleError, IntegrityError, UsageError
from builder.lock import LOCAL
from builder.model import KINDS, Plan, Receipt
from builder.pipeline import result
from builder.screen.envelope import envelope
from builder.screen.streams import written
from builder.screen.summary import summary
from builder.screen.text import look
from builder.sources import require_parsable_checks

_MOST_JOBS = 1000
UNEQUAL = 1  # exit code if a comparison finds differences


def options() -> argparse.ArgumentParser:
    found = parser(
        "build",
        "Build targets, check them and, with --publish, publish them. Prints the name of each on stdout.",
    )
    add_targets(found)
    found.add_argument("--all", action="store_true", help="build every target that the site can build")
    found.add_argument("--kind", choices=KINDS, help="with --all: only targets of this kind")
    found.add_argument(
        "--publish",
        action="store_true",
        help="publish: containers to the site's registry, AMIs as site.toml says",
    )
    found.add_argument(
        "-j",
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="build N layers or AMIs in parallel (default: number of cores)",
    )
    add_json(found, "print events as NDJSON, and at the end the result")
    found.add_argument("--yes", action="store_true", help="in an AWS account: do not ask for confirmation")
    found.add_argument(
        "--force",
        action="store_true",
        help="with --publish: even if the stack's tag or a 'latest' parameter points to a newer image",
    )
    found.add_argument(
        "--rebuild",
        action="append",
        default=[],
        metavar="LAYER",
        help="build a layer again, and all layers on top of it; may be repeated",
    )
    found.add_argument(
        "--no-checkpoints",
        dest="checkpoints",
        action="store_false",
        help="AMIs: start from the source image, and make no checkpoints",
    )
    found.add_argument(
        "--keep-failed",
        action="store_true",
        help="keep the container or instance of a failed build or failed checks, and print how to enter and"
        " remove it",
    )
    found.add_argument(
        "--reproduce",
        action="store_true",
        help="build all layers of containers twice, and list the files that differ (exit code 1)",
    )
    found.add_argument("--dry-run", action="store_true", help="build nothing; show what builder plan shows")
    add_site(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = _parse(argv)
    context = open_context(parsed)
    plans = _plans(context, parsed)
    request = Request(
        publish=parsed.publish,
        jobs=parsed.jobs,
        as_json=parsed.json,
        yes=parsed.yes,
        force=parsed.force,
        checkpoints=parsed.checkpoints,
        rebuild=tuple(parsed.rebuild),
        keep_failed=parsed.keep_failed,
    )
    if parsed.dry_run:
        return show_plans(context, plans, request)
    for plan in plans:
        require_parsable_checks(context.root, plan)
    if parsed.reproduce:
        return _reproduce(context, plans, request, parsed)
    finished: list[Receipt] = []
    try:
        finished = build(context, plans, request, finished)
    except FactoryError as error:
        error.result = _tables(context, finished, parsed) or None
        _show(context, finished)
        _print_names(finished, parsed)
        raise
    _show(context, finished)
    _print_names(finished, parsed)
    if parsed.json:
        print(envelope("build", result=_tables(context, finished, parsed), indent=None))
    if not (parsed.publish or parsed.all or parsed.json or parsed.rebuild):
        _record(argv, context, finished)
    return 0


def _reproduce(context: Context, plans: Sequence[Plan], request: Request, parsed: argparse.Namespace) -> int:
    """Build each plan twice; print the names of the images, or their differences."""
    from builder.app.reproduction import reproduce

    finished: list[Receipt] = []
    found = reproduce(context, plans, request, finished)
    _show(context, finished)
    if parsed.json:
        tables = [
            {**table, "differences": found.get(str(table["target"]), [])}
            for table in _tables(context, finished, parsed)
        ]
        print(envelope("build", exit_code=UNEQUAL if found else 0, result=tables, indent=None))
    elif found:
        print("\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines))
    else:
        _print_names(finished, parsed)
    return UNEQUAL if found else 0


def _print_names(receipts: Sequence[Receipt], parsed: argparse.Namespace) -> None:
    if not parsed.json:
        for receipt in receipts:
            print(result(receipt, publish=parsed.publish))


def _tables(
    context: Context, receipts: Sequence[Receipt], parsed: argparse.Namespace
) -> list[dict[str, Any]]:
    return [_as_json(context, receipt, publish=parsed.publish) for receipt in receipts]


def _record(argv: Sequence[str], context: Context, receipts: Sequence[Receipt]) -> None:
    """Record the output for repeated calls, if the site is local and the engine is on this machine."""
    url, texts = Engine().url, written()
    if texts is None or context.site_name != LOCAL or not url.startswith(UNIX):
        return
    root, out = context.root, context.workspace.out
    folders = [
        *(root / name for name in ("ansible", "catalog", "containers")),
        *(out / "receipts" / receipt.plan.target.name for receipt in receipts),
        *(report_path(context, receipt) for receipt in receipts),
        site.path_of(root),
        Path(builder.__file__).parent,
    ]
    images = [f"{LAYERS}:{receipt.plan.key}" for receipt in receipts]
    unchanged.record(list(argv), map(str, folders), images, url.removeprefix(UNIX), texts)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parsed = options().parse_args(argv)
    if not 1 <= parsed.jobs <= _MOST_JOBS:
        raise UsageError(f"--jobs {parsed.jobs}: must be 1 to {_MOST_JOBS}", hint="builder build --help")
    if parsed.all and (parsed.targets or parsed.target):
        raise UsageError(
            "builder build: --all is not allowed with named targets", hint="builder build TARGET"
        )
    if parsed.dry_run and parsed.json:
        raise UsageError(
            "builder build: --dry-run is not allowed with --json",
            hint=shlex.join(["builder", "plan", "--json", *(parsed.targets or parsed.target or ["TARGET"])]),
        )
    excluded = ("all", "publish", "rebuild", "dry_run")
    if parsed.reproduce and (others := [name for name in excluded if getattr(parsed, name)]):
        raise UsageError(
            f"builder build: --reproduce is not allowed with --{others[0].replace('_', '-')}",
            hint="builder build TARGET --reproduce",
        )
    if parsed.kind and not parsed.all:
        raise UsageError(
            "builder build: --kind requires --all", hint=f"builder build --all --kind {parsed.kind}"
        )
    return parsed


def _plans(context: Context, parsed: argparse.Namespace) -> list[Plan]:
    """Return the plans to build; raise the error of the first target that cannot be built."""
    if parsed.all:
        return list(_possible(context, parsed.kind))
    plans = context.plans(find_targets(context, parsed, verb="build"))
    if not parsed.dry_run:  # which shows the plans before the reason
        require_possible(context, plans)
    return plans


def _possible(context: Context, kind: str | None) -> Iterator[Plan]:
    """Yield the plans that the site can build; print the other targets and the reasons on stderr."""
    _ = context.lock, context.site  # an invalid file fails here, and not once for every target
    for name, target in context.catalog.targets.items():
        if kind not in (None, target.kind):
            continue
        try:
            plan = context.plan(name)
            require_possible(context, [plan])
        except (UsageError, CatalogError, IncompatibleError, IntegrityError) as error:
            first = error.details.partition("\n")[0] if isinstance(error, CatalogError) else error.message
            print(f"left out: {name}: {first}", file=sys.stderr)
        else:
            yield plan


def _show(context: Context, receipts: Sequence[Receipt]) -> None:
    style = look(sys.stderr, os.environ)
    for receipt in receipts:
        path = report_path(context, receipt)
        text = summary(
            receipt,
            look=style,
            report_path=path if path.is_file() else None,
            next_command=open_lane(receipt.artifact.kind, context).next_command(receipt),
        )
        print(text, file=sys.stderr)


def _as_json(context: Context, receipt: Receipt, *, publish: bool) -> dict[str, Any]:
    report, path = receipt.report, report_path(context, receipt)
    layers = ({**asdict(layer), "components": list(layer.components)} for layer in receipt.artifact.layers)
    counts = (
        {outcome: report.count(outcome) for outcome in ("passed", "failed", "skipped")} if report else None
    )
    return {
        "target": receipt.plan.target.name,
        "kind": receipt.artifact.kind,
        "flavour": receipt.plan.flavour.name,
        "name": result(receipt, publish=publish),
        "reference": receipt.artifact.reference,
        "seconds": receipt.seconds,
        "run": receipt.run,
        "created": receipt.created,
        "layers": list(layers),
        "checks": counts,
        "publications": [{**asdict(item), "tags": list(item.tags)} for item in receipt.publications],
        "report": str(path) if path.is_file() else None,
    }


def report_path(context: Context, receipt: Receipt) -> Path:
    return context.workspace.out / "runs" / receipt.run / f"report-{receipt.plan.target.name}.html"
