"""`builder check IMAGE`: runs a target's checks on an existing image."""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.adapters.host.checkout import commit_of
from builder.adapters.host.receipts import now
from builder.app.context import Context, add_flavour, add_json, open_context, parser, print_json
from builder.app.interrupts import interruptible
from builder.app.lanes.lane import Lane, Request, Work
from builder.app.lanes.table import open_lane
from builder.app.production import clear_dead, working, write_report
from builder.errors import CheckError, UsageError, with_result
from builder.events import Recorder
from builder.marks import STACK_LABEL, TARGET_LABEL
from builder.model import Artifact, Check, Plan, Report
from builder.pipeline import check, refusal
from builder.plan import find_target
from builder.screen.attempt import Attempt
from builder.screen.tables import table
from builder.screen.text import clean, look

_KIND = "container"  # the kind of all images in the engine
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_REFERENCE = re.compile(r"[a-z0-9][a-z0-9._/:-]*(?:[:@][A-Za-z0-9._:-]+)?")


def options() -> argparse.ArgumentParser:
    found = parser(
        "check",
        "Run the checks of a target on an existing image. Prints a table with the first reason of every"
        " component that fails, and the image's ID on stdout if all checks pass.",
    )
    found.add_argument("image", metavar="IMAGE", help="image in the engine: name:tag or ID")
    found.add_argument("--target", metavar="TARGET", help="default: the target in the image's label")
    found.add_argument(
        "--only",
        metavar="COMPONENT",
        help="only the checks of a component, or those with this word in their name, such as environment",
    )
    found.add_argument("--details", action="store_true", help="print the whole message of every failed check")
    add_flavour(found)
    add_json(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    if parsed.only is not None and not _WORD.fullmatch(parsed.only):
        raise UsageError(f"--only {parsed.only}: must be one word", hint="builder check --help")
    context = open_context(parsed)
    image = Engine().inspect_image(parsed.image)
    if image is None:
        can_be_pulled = _REFERENCE.fullmatch(parsed.image)
        hint = f"docker pull {parsed.image}" if can_be_pulled else "docker image ls"
        raise UsageError(f"no image '{parsed.image}' in the engine", hint=hint)
    plan = _plan(context, parsed, image)
    name = plan.target.name
    artifact = Artifact(kind=_KIND, target=name, reference=str(image["Id"]), key="")
    recorder, report, folder = Recorder(), None, None
    try:
        with interruptible():
            clear_dead(context.workspace)
            with working(context, "check", [name], Request(only=parsed.only or ""), recorder) as work:
                folder = work.run.folder
                report = _check(plan, artifact, open_lane(artifact.kind, context), work)
                if not report.passed:
                    with with_result(_as_json(report, name)):
                        raise _refusal(plan, report, parsed)
    finally:
        if report and folder:
            attempt = Attempt(
                run=folder.name,
                created=now(),
                commit=commit_of(context.root),
                plan=plan,
                reference=artifact.reference,
                report=report,
                seconds=report.seconds,
            )
            _print(report, folder, write_report(folder, attempt, recorder.events))
    if parsed.json:
        print_json(parsed, _as_json(report, name))
    else:
        print(artifact.reference)
    return 0


def _plan(context: Context, parsed: argparse.Namespace, image: dict[str, object]) -> Plan:
    """Return the plan of the target and flavour that the options or the labels of the image name."""
    config = image["Config"] or {}
    labels = (config.get("Labels") if isinstance(config, dict) else None) or {}
    name = parsed.target or labels.get(TARGET_LABEL)
    if not name:
        raise UsageError(
            f"image '{parsed.image}' has no label {TARGET_LABEL}",
            hint=f"builder list; then: builder check {parsed.image} --target TARGET",
        )
    target = find_target(context.catalog, name)
    flavour = context.flavour_of(target)
    stack = labels.get(STACK_LABEL) if labels.get(TARGET_LABEL) == target.name else None
    if not context.flavour and stack not in (None, flavour.stack):
        built = (each for each in target.flavours.values() if each.stack == stack)
        flavour = next(built, flavour)
    plan = context.plan_flavour(target, flavour)
    if plan.target.kind != _KIND:
        raise UsageError(
            f"target '{name}' is of kind {plan.target.kind}, but '{parsed.image}' is a {_KIND} image",
            hint="builder list; then pass --target with a target of kind " + _KIND,
        )
    return plan


def _check(plan: Plan, artifact: Artifact, lane: Lane, work: Work) -> Report:
    tools = lane.begin(work)
    try:
        return check(plan, artifact, tools.checker, work.events)
    finally:
        lane.end()


def _refusal(plan: Plan, report: Report, parsed: argparse.Namespace) -> CheckError:
    """Return the error for failed checks; the error has the checks' messages only with --details."""
    error = refusal(plan, report, most=len(report.checks) if parsed.details else 0)
    if parsed.details:
        error.hint = f"docker run --rm -it {report.reference[:19]} bash"
    return error


def _print(report: Report, folder: Path, page: Path | None) -> None:
    style = look(sys.stderr, os.environ)
    rows = list(_by_component(report))
    if rows:
        print(file=sys.stderr)
        print(table(("component", "passed", "failed", "skipped", "why"), rows, look=style), file=sys.stderr)
    print(f"log: {folder / 'log.txt'}", file=sys.stderr)
    if page:
        print(f"report: {page}", file=sys.stderr)


def _by_component(report: Report) -> Iterator[tuple[str, ...]]:
    """Yield (component, counts, reason of the first failed check or else of the first skipped check)."""

    def component(check: Check) -> str:
        return check.component

    for name, group in groupby(sorted(report.checks, key=component), key=component):
        checks = list(group)
        of = {word: [c for c in checks if c.outcome == word] for word in ("passed", "failed", "skipped")}
        first = next(iter(of["failed"] or of["skipped"]), None)
        why = f"{first.name.partition('::')[2]}: {first.reason}" if first else ""
        yield (name, *(str(len(found) or "") for found in of.values()), clean(why))


def _as_json(report: Report, target: str) -> dict[str, object]:
    counts = {outcome: report.count(outcome) for outcome in ("passed", "failed", "skipped")}
    return {
        "target": target,
        "reference": report.reference,
        **counts,
        "seconds": report.seconds,
        "checks": [dataclasses.asdict(check) for check in report.checks],
    }
