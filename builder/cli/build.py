"""`builder build`: makes, checks and publishes targets."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from builder.app.context import Context, add_site, open_context, parser
from builder.app.lanes.lane import Request
from builder.app.lanes.table import obstacle_of, open_lane, require_buildable
from builder.app.session import build
from builder.errors import UsageError
from builder.model import KINDS, Receipt
from builder.pipeline import require_allowed, require_locked, result
from builder.screen.summary import summary
from builder.screen.text import look


def run(argv: Sequence[str]) -> int:
    started = time.monotonic()
    options = parser(
        "build",
        "Build targets, check them and, with --publish, publish them. Prints the name of each on stdout.",
    )
    options.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="target to build; may be repeated"
    )
    options.add_argument("--all", action="store_true", help="build every target that the site can build")
    options.add_argument("--kind", choices=KINDS, help="with --all: only targets of this kind")
    options.add_argument(
        "--publish",
        action="store_true",
        help="publish: containers to the site's registry, AMIs as site.toml says",
    )
    options.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="build N layers or AMIs in parallel (default: number of cores)",
    )
    options.add_argument("--json", action="store_true", help="print events as NDJSON on stdout")
    options.add_argument("--yes", action="store_true", help="in an AWS account: do not ask for confirmation")
    add_site(options)
    parsed = options.parse_args(argv)
    if parsed.jobs < 1:
        raise UsageError(f"--jobs {parsed.jobs}: must be at least 1", hint="builder build --help")
    context = open_context(parsed)
    names = _all(context, parsed.kind) if parsed.all else _require_buildable(context, parsed.target)
    plans = context.plans(names)
    require_locked(plans)
    require_allowed(plans)
    request = Request(publish=parsed.publish, jobs=parsed.jobs, as_json=parsed.json, yes=parsed.yes)
    receipts = build(context, plans, request)
    _show(context, receipts, seconds=time.monotonic() - started, quiet=parsed.json)
    return 0


def _all(context: Context, kind: str | None) -> list[str]:
    """Return the targets that the site can build; print the others and the reasons on stderr."""
    names = []
    for name, target in context.catalog.targets.items():
        if kind not in (None, target.kind):
            continue
        try:
            obstacle = obstacle_of(context, name)
        except UsageError as error:  # the target lacks the requested flavour
            obstacle = error.message
        if obstacle:
            print(f"left out: {name}: {obstacle}", file=sys.stderr)
        else:
            names.append(name)
    return names


def _require_buildable(context: Context, names: Sequence[str]) -> Sequence[str]:
    """Return the names; raise UsageError if the site cannot build a target."""
    if not names:
        raise UsageError(
            "builder build: no target given", hint="builder list; then pass --target NAME or --all"
        )
    for name in names:
        require_buildable(context, name, verb="build")
    return names


def _show(context: Context, receipts: Sequence[Receipt], *, seconds: float, quiet: bool) -> None:
    style = look(sys.stderr, os.environ)
    for receipt in receipts:
        path = report_path(context, receipt)
        text = summary(
            receipt,
            seconds=seconds,
            look=style,
            report_path=path if path.is_file() else None,
            next_command=open_lane(receipt.artifact.kind, context).next_command(receipt),
        )
        print(text, file=sys.stderr)
        if not quiet:
            print(result(receipt))


def report_path(context: Context, receipt: Receipt) -> Path:
    return context.workspace.out / "runs" / receipt.run / f"report-{receipt.plan.target.name}.html"
