"""The session of a build: finds finished targets, makes the missing targets, returns the receipts."""

import sys
import threading
from collections.abc import Sequence

from builder.adapters.host.receipts import Receipts, unreadable
from builder.app.context import Context
from builder.app.lanes.lane import Lane, Request
from builder.app.lanes.table import open_lanes, require_supported
from builder.errors import Interrupted
from builder.events import Stream
from builder.model import Plan, Receipt
from builder.pipeline import find, report_reused, result
from builder.screen.ndjson import JsonLines


def build(
    context: Context, plans: Sequence[Plan], request: Request, finished: list[Receipt] | None = None
) -> list[Receipt]:
    """Build the targets that are not finished; return the receipts of all plans, in the plans' order.

    If a target fails, its error is raised, and `finished` has the receipts of the other targets.
    """
    for plan in plans:
        for problem in unreadable(context.workspace.out, plan.target.name):
            print(f"receipt not used: {problem}", file=sys.stderr)
    cancelled = threading.Event()
    lanes = open_lanes(context, plans, cancelled)
    require_supported(lanes, plans, request)
    for kind, lane in lanes.items():
        lane.prepare(_of_kind(plans, kind), publish=request.publish)
    known = [plan for plan in plans if not any(layer.name in request.rebuild for layer in plan.layers)]
    found = _find(context, known, lanes, publish=request.publish)
    missing = [plan for plan in plans if plan.target.name not in found]
    needed = {kind: lane for kind, lane in lanes.items() if _of_kind(missing, kind)}
    for kind, lane in needed.items():
        lane.confirm(_of_kind(missing, kind), request)
    reused = list(found.values())
    for receipt in reused:
        lanes[receipt.plan.target.kind].reuse(receipt)
    if missing:
        # Imported late: slow to load, and not needed if all targets are reused.
        from builder.app.production import produce_all

        made: list[Receipt] = []
        try:
            produce_all(context, missing, reused, made, lanes=needed, request=request, cancelled=cancelled)
        finally:
            found |= {receipt.plan.target.name: receipt for receipt in made}
            if finished is not None:
                finished += [found[plan.target.name] for plan in plans if plan.target.name in found]
    elif request.as_json:
        _announce(reused, publish=request.publish)
    return [found[plan.target.name] for plan in plans]


def _of_kind(plans: Sequence[Plan], kind: str) -> list[Plan]:
    return [plan for plan in plans if plan.target.kind == kind]


def _find(
    context: Context, plans: Sequence[Plan], lanes: dict[str, Lane], *, publish: bool
) -> dict[str, Receipt]:
    """Return the receipts of targets that are already built, by the target's name."""
    ledger = Receipts(context.workspace, root=context.root)
    searches = {kind: lane.search(ledger, publish=publish) for kind, lane in lanes.items()}
    receipts = (find(plan, searches[plan.target.kind]) for plan in plans)
    return {receipt.plan.target.name: receipt for receipt in receipts if receipt is not None}


def _announce(receipts: Sequence[Receipt], *, publish: bool) -> None:
    """Write the event stream of a build in which every target was reused."""

    def interrupt() -> None:
        raise Interrupted("stdout was closed by its reader")

    events = Stream(JsonLines(sys.stdout, on_lost=interrupt))
    names = ",".join(receipt.plan.target.name for receipt in receipts)
    events.emit("run.start", text="build", targets=names)
    for receipt in receipts:
        report_reused(receipt, events)
    events.emit("run.end", ok=True, seconds=0.0, result=result(receipts[-1], publish=publish))
