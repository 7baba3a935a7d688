"""`builder build`: makes targets, checks them, publishes them; with nothing to do it asks the engine once."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from builder.adapters.container.finder import EngineFinder
from builder.adapters.engine.client import Engine
from builder.adapters.host.receipts import Receipts
from builder.app.context import Context, add_site, open_context, parser
from builder.app.lanes.container import open_publisher
from builder.catalog import KINDS
from builder.errors import UsageError
from builder.model import Receipt
from builder.pipeline import find, require_locked
from builder.ports import Finder, Publisher
from builder.screen.summary import summary
from builder.screen.text import Look, look


def run(argv: Sequence[str]) -> int:
    started = time.monotonic()
    options = parser(
        "build", "Make targets, check them and, if asked, publish them. stdout: one name a line."
    )
    options.add_argument("--target", action="append", default=[], metavar="NAME", help="may be repeated")
    options.add_argument("--all", action="store_true", help="every target that the site can make")
    options.add_argument("--kind", choices=KINDS, help="with --all: only targets of this kind")
    options.add_argument("--publish", action="store_true", help="push to the registry of the site")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="default: cores")
    options.add_argument("--json", action="store_true", help="events as NDJSON on stdout")
    options.add_argument("--yes", action="store_true", help="in an account: do not ask before creating")
    add_site(options)
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    names = _all(context, parsed.kind) if parsed.all else parsed.target
    if not names:
        raise UsageError("builder build: which target?", hint="builder list, then --target NAME or --all")
    if parsed.jobs < 1:
        raise UsageError(f"--jobs {parsed.jobs}: at least 1", hint="builder build --help")
    context.require_possible(names)
    plans = context.plans(names)
    require_locked(plans)
    engine = Engine()
    kinds = {plan.target.kind for plan in plans}
    publishers: dict[str, Publisher] = {}
    if parsed.publish and "container" in kinds:
        publishers["container"] = open_publisher(context, engine)
    ledger = Receipts(context.workspace, root=context.root)
    finders: dict[str, Finder] = {"container": EngineFinder(engine)}
    if "ami" in kinds:
        from builder.app.lanes import ami

        finders["ami"] = ami.announce(context, plans, yes=parsed.yes)
        if parsed.publish:
            publisher = ami.open_publisher(ami.Place(context))
            for plan in plans:
                if plan.target.kind == "ami":
                    publisher.foresee(plan)
            publishers["ami"] = publisher
    done = [
        find(
            plan,
            finder=finders[plan.target.kind],
            ledger=ledger,
            publisher=publishers.get(plan.target.kind),
        )
        for plan in plans
    ]
    receipts = [receipt for receipt in done if receipt is not None]
    if len(receipts) < len(plans):
        from builder.app.session import produce_all

        receipts = produce_all(
            context, plans, engine=engine, publish=parsed.publish, jobs=parsed.jobs, as_json=parsed.json
        )
    elif parsed.json:
        _announce(receipts)
    _show(context, receipts, seconds=time.monotonic() - started, quiet=parsed.json)
    return 0


def _all(context: Context, kind: str | None) -> list[str]:
    """Every target that the site can make; says which it cannot."""
    names = []
    for name, target in context.catalog.targets.items():
        if kind not in (None, target.kind):
            continue
        if why := context.obstacle(target):
            print(f"left out: {name}: {why}", file=sys.stderr)
        else:
            names.append(name)
    return names


def report_path(context: Context, receipt: Receipt) -> Path:
    return context.workspace.out / "runs" / receipt.run / f"report-{receipt.plan.target.name}.html"


def _announce(receipts: Sequence[Receipt]) -> None:
    """The stream of a run in which everything was reused."""
    from builder.events import Stream
    from builder.screen.ndjson import JsonLines

    events = Stream(JsonLines(sys.stdout))
    names = ",".join(receipt.plan.target.name for receipt in receipts)
    events.emit("run.start", text="build", targets=names)
    for receipt in receipts:
        for made in receipt.artifact.layers:
            step = f"{receipt.plan.target.name}/{made.name}"
            events.emit("step.end", step=step, text=made.reason, outcome="reused", seconds=0.0)
    events.emit("run.end", ok=True, seconds=0.0, result=_result(receipts[-1]))


def _result(receipt: Receipt) -> str:
    return receipt.publications[0].name if receipt.publications else receipt.artifact.reference


def _show(context: Context, receipts: Sequence[Receipt], *, seconds: float, quiet: bool) -> None:
    style: Look = look(sys.stderr, os.environ)
    for receipt in receipts:
        path = report_path(context, receipt)
        print(
            summary(
                receipt,
                seconds=seconds,
                look=style,
                report_path=path if path.is_file() else None,
                next_command=_next(receipt),
            ),
            file=sys.stderr,
        )
        if not quiet:
            print(_result(receipt))


def _next(receipt: Receipt) -> str:
    if receipt.artifact.kind == "ami":
        return f"builder ami show {receipt.artifact.reference}"
    return f"docker run --rm {image_name(receipt)} --help"


def image_name(receipt: Receipt) -> str:
    """What the engine calls the newest image of a target."""
    return f"{receipt.plan.target.name}:{receipt.plan.stack.name}"
