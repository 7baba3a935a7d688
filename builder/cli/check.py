"""`builder check IMAGE`: runs a target's checks on an existing image."""

import sys
from collections.abc import Sequence

from builder.adapters.engine.client import Engine
from builder.app.context import add_flavour, open_context, parser
from builder.app.interrupts import interruptible
from builder.app.lanes.lane import Lane, Request, Work
from builder.app.lanes.table import open_lane
from builder.app.production import clear_dead, working
from builder.errors import UsageError
from builder.marks import TARGET_LABEL
from builder.model import Artifact, Plan, Report
from builder.pipeline import check, refusal
from builder.screen.text import clean


def run(argv: Sequence[str]) -> int:
    options = parser("check", "Run the checks of a target on an existing image.")
    options.add_argument("image", help="image in the engine: name:tag or ID")
    options.add_argument("--target", metavar="NAME", help="default: the target in the image's label")
    add_flavour(options)
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    image = Engine().inspect_image(parsed.image)
    if image is None:
        raise UsageError(f"no image '{parsed.image}' in the engine", hint=f"docker pull {parsed.image}")
    name = parsed.target or ((image["Config"] or {}).get("Labels") or {}).get(TARGET_LABEL)
    if not name:
        raise UsageError(
            f"image '{parsed.image}' has no label {TARGET_LABEL}", hint="pass --target NAME; builder list"
        )
    plan = context.plan(name)
    artifact = Artifact(kind="container", target=name, reference=str(image["Id"]), key="")
    report: Report | None = None
    try:
        with interruptible():
            clear_dead(context.workspace)
            with working(context, "check", [name], Request()) as work:
                report = _check(plan, artifact, open_lane(artifact.kind, context), work)
                if not report.passed:
                    raise refusal(plan, report)
    finally:
        for skipped in report.checks if report else ():
            if skipped.outcome == "skipped":
                print(clean(f"skipped {skipped.name}: {skipped.message}"), file=sys.stderr)
    print(artifact.reference)
    return 0


def _check(plan: Plan, artifact: Artifact, lane: Lane, work: Work) -> Report:
    tools = lane.begin(work)
    try:
        return check(plan, artifact, tools.checker, work.events)
    finally:
        lane.end()
