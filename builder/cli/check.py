"""`builder check IMAGE`: runs a target's checks on an existing image."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from builder.adapters.engine.client import Engine
from builder.app.context import add_flavour, add_json, open_context, parser, print_json
from builder.app.interrupts import interruptible
from builder.app.lanes.lane import Lane, Request, Work
from builder.app.lanes.table import open_lane
from builder.app.production import clear_dead, working
from builder.errors import UsageError, with_result
from builder.marks import TARGET_LABEL
from builder.model import Artifact, Plan, Report
from builder.pipeline import check, refusal
from builder.screen.text import clean

_KIND = "container"  # the kind of all images in the engine


def options() -> argparse.ArgumentParser:
    found = parser("check", "Run the checks of a target on an existing image.")
    found.add_argument("image", metavar="IMAGE", help="image in the engine: name:tag or ID")
    found.add_argument("--target", metavar="TARGET", help="default: the target in the image's label")
    add_flavour(found)
    add_json(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    context = open_context(parsed)
    image = Engine().inspect_image(parsed.image)
    if image is None:
        raise UsageError(f"no image '{parsed.image}' in the engine", hint=f"docker pull {parsed.image}")
    name = parsed.target or ((image["Config"] or {}).get("Labels") or {}).get(TARGET_LABEL)
    if not name:
        raise UsageError(
            f"image '{parsed.image}' has no label {TARGET_LABEL}",
            hint=f"builder list; then: builder check {parsed.image} --target TARGET",
        )
    plan = context.plan(name)
    if plan.target.kind != _KIND:
        raise UsageError(
            f"target '{name}' is of kind {plan.target.kind}, and '{parsed.image}' is a {_KIND} image",
            hint="builder list; then pass --target with a target of kind " + _KIND,
        )
    name = plan.target.name
    artifact = Artifact(kind=_KIND, target=name, reference=str(image["Id"]), key="")
    report: Report | None = None
    try:
        with interruptible():
            clear_dead(context.workspace)
            with working(context, "check", [name], Request()) as work:
                report = _check(plan, artifact, open_lane(artifact.kind, context), work)
                if not report.passed:
                    with with_result(_as_json(report, name)):
                        raise refusal(plan, report)
    finally:
        for skipped in report.checks if report else ():
            if skipped.outcome == "skipped":
                print(clean(f"skipped {skipped.name}: {skipped.message}"), file=sys.stderr)
    if parsed.json:
        print_json(parsed, _as_json(report, name))
    else:
        print(artifact.reference)
    return 0


def _as_json(report: Report, target: str) -> dict[str, object]:
    counts = {outcome: report.count(outcome) for outcome in ("passed", "failed", "skipped")}
    return {
        "target": target,
        "reference": report.reference,
        **counts,
        "seconds": report.seconds,
        "checks": [dataclasses.asdict(check) for check in report.checks],
    }


def _check(plan: Plan, artifact: Artifact, lane: Lane, work: Work) -> Report:
    tools = lane.begin(work)
    try:
        return check(plan, artifact, tools.checker, work.events)
    finally:
        lane.end()
