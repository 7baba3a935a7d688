"""Run the steps of a build: find or make, check, publish, record.

Skipped steps report the reason. Depends on the interfaces in `ports`, not on their implementations.
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from builder.errors import (
    BuildError,
    CheckError,
    IncompatibleError,
    IntegrityError,
    PublishError,
    system_errors,
)
from builder.events import Meter, Stream
from builder.lock import LOCK_PATH
from builder.logins import login_command
from builder.model import Artifact, Check, Plan, Publication, Receipt, Report
from builder.ports import Checker, Finder, Ledger, Maker, Publisher
from builder.stack.judging import facts_of
from builder.values import dataclass

_MOST_MESSAGES = 3  # of failed checks, in the error of a build


@dataclass(frozen=True, kw_only=True)
class Search:
    """Ports for finding finished targets; without a publisher, publications are not considered."""

    finder: Finder
    ledger: Ledger
    publisher: Publisher | None = None


@dataclass(frozen=True, kw_only=True)
class Tools(Search):
    """Ports for building, checking and publishing targets."""

    maker: Maker
    checker: Checker
    events: Stream


def find(plan: Plan, search: Search) -> Receipt | None:
    """Return the receipt of a plan that is built, checked and published; None if any step remains."""
    earlier = search.ledger.find(plan)
    if earlier is None or earlier.report is None or not earlier.report.passed:
        return None
    artifact = search.finder.find(plan)
    if artifact is None or artifact.reference != earlier.artifact.reference:
        return None
    publications = earlier.publications
    if search.publisher:
        present = _published(earlier, search.publisher)
        if present is None:
            return None
        publications = _first(present, publications)
    return dataclasses.replace(earlier, artifact=artifact, publications=publications, seconds=0.0)


def result(receipt: Receipt, *, publish: bool) -> str:
    """Return the published name of a receipt if publication was requested, else its artifact's reference."""
    return receipt.publications[0].name if publish else receipt.artifact.reference


def report_reused(receipt: Receipt, events: Stream) -> None:
    """Emit a `step.end` event for each layer of a target that was reused as a whole."""
    for made in receipt.artifact.layers:
        step = f"{receipt.plan.target.name}/{made.name}"
        events.emit("step.end", step=step, text=made.reason, outcome="reused", seconds=0.0)


def produce(plan: Plan, tools: Tools) -> Receipt:
    """Run the steps that a plan still needs (make, check, publish); return the receipt."""
    started = time.monotonic()
    earlier = tools.ledger.find(plan)
    with system_errors(BuildError):
        artifact = tools.maker.make(plan)
    if earlier and earlier.artifact.reference != artifact.reference:
        earlier = None
    with system_errors(CheckError):
        report = _check(plan, artifact, earlier, tools)
    with system_errors(BuildError):
        # Record before publishing: if the registry fails, a retry must not repeat the checks.
        known = earlier.publications if earlier and report.passed else ()
        receipt = tools.ledger.record(plan, artifact, report, known, seconds=time.monotonic() - started)
    if not report.passed:
        raise refusal(plan, report)
    if tools.publisher:
        with system_errors(PublishError):
            publications = _publish(plan, artifact, earlier, tools.publisher, tools.events)
            seconds = time.monotonic() - started
            receipt = tools.ledger.record(plan, artifact, report, publications, seconds=seconds)
    return receipt


def _check(plan: Plan, artifact: Artifact, earlier: Receipt | None, tools: Tools) -> Report:
    if earlier is None or earlier.report is None or not earlier.report.passed:
        return check(plan, artifact, tools.checker, tools.events)
    with _step(plan, "checks", tools.events) as end:
        reason = f"the same checks passed on the same image ({earlier.created})"
        end.update(text=reason, outcome="reused")
    return earlier.report


def check(plan: Plan, artifact: Artifact, checker: Checker, events: Stream) -> Report:
    """Run the checks of a plan on an artifact and emit the result."""
    with _step(plan, "checks", events) as end:
        report = checker.check(plan, artifact)
        outcomes = ("passed", "failed", "skipped")
        counts = ", ".join(
            f"{report.count(outcome)} {outcome}" for outcome in outcomes if report.count(outcome)
        )
        end.update(text=counts or "no check ran", outcome="passed" if report.passed else "failed")
        if not report.passed:
            end["explained"] = True  # by the error
    return dataclasses.replace(report, seconds=end["seconds"])


def _step(plan: Plan, step: str, events: Stream) -> AbstractContextManager[dict[str, Any]]:
    return events.step(f"{plan.target.name}/{step}", step, target=plan.target.name)


def require_allowed(plans: Iterable[Plan]) -> None:
    """Raise IncompatibleError if the compatibility rules refuse one of the plans."""
    refused = [plan for plan in plans if plan.errors]
    if refused:
        plan = refused[0]
        first, *more = [
            f"target '{plan.target.name}': stack '{plan.stack.name}' on {error}"
            for plan in refused
            for error in plan.errors
        ]
        facts = facts_of(plan.system, kind=plan.target.kind, arch=plan.arch)
        settings = "".join(f" --set {name}={value}" for name, value in facts.items())
        raise IncompatibleError(
            first,
            hint=f"builder stack check {plan.stack.name}{settings}",
            details="\n".join(more),
        )


def require_locked(plans: Iterable[Plan], *, hint: str = "") -> None:
    """Raise IntegrityError if a download of the plans has no valid entry in the lock.

    `hint` replaces the default hint: the `builder lock` commands for the targets of these plans.
    """
    incomplete = [plan for plan in plans if plan.unlocked]
    missing = sorted({want for plan in incomplete for want in plan.unlocked})
    if missing:
        noun = "download" if len(missing) == 1 else "downloads"
        raise IntegrityError(
            f"{LOCK_PATH}: {len(missing)} {noun} of this build missing or outdated: {missing[0]}",
            hint=f"{hint or '; '.join(_lock_commands(incomplete))}; then review: git diff {LOCK_PATH}",
            details="\n".join(missing) if len(missing) > 1 else "",
        )


def _lock_commands(plans: Sequence[Plan]) -> list[str]:
    """Return the commands that lock the downloads of plans, one for each flavour and site."""
    names: dict[str, list[str]] = {}
    for plan in plans:
        options = f" --flavour {plan.flavour.name}" if len(plan.target.flavours) > 1 else ""
        options += " --site aws" if any(want.startswith("ami ") for want in plan.unlocked) else ""
        names.setdefault(options, []).append(plan.target.name)
    commands = [f"builder lock {' '.join(targets)}{options}" for options, targets in names.items()]
    return [*_logins(plans), *commands]


def _logins(plans: Iterable[Plan]) -> list[str]:
    """Return the login commands for the registries of base images that have no lock entry."""
    images = [plan.system.image for plan in plans if any(want.startswith("image ") for want in plan.unlocked)]
    return [command for command in dict.fromkeys(map(login_command, images)) if command]


def refusal(plan: Plan, report: Report, *, most: int = _MOST_MESSAGES) -> CheckError:
    """Return the error for a failed check report, with the messages of at most `most` failed checks."""
    name = plan.target.name
    failed = [check for check in report.checks if check.outcome == "failed"]
    names = ", ".join(check.name for check in failed[:3])
    skipped = f" ({len(report.checks)} skipped)" if report.checks else ""
    reason = f"{len(failed)} of {len(report.checks)} checks failed: {names}"
    return CheckError(
        f"target '{name}': {reason if failed else f'no check ran{skipped}'}",
        hint="\n".join((_hint(name, report.reference, failed), *report.kept)),
        details="\n\n".join(f"{check.name}\n{check.message}" for check in failed[:most]),
    )


def _hint(target: str, reference: str, failed: Sequence[Check]) -> str:
    if not failed or not reference.startswith("sha256:"):  # `builder check` takes only images of the engine
        return f"correct the components or their checks, then: builder build {target}"
    return f"builder check {reference[:19]} --target {target} --only {failed[0].component} --details"


def _publish(
    plan: Plan, artifact: Artifact, earlier: Receipt | None, publisher: Publisher, events: Stream
) -> tuple[Publication, ...]:
    with _step(plan, "publish", events) as end:
        present = _published(earlier, publisher) if earlier else None
        meter = Meter(events, f"{plan.target.name}/publish")
        publication = present or publisher.publish(plan, artifact, meter)
        end.update(
            text=publication.name,
            outcome="present" if present else "pushed",
            size_bytes=0 if present else publication.pushed_bytes,
        )
    if not present:
        publication = dataclasses.replace(publication, seconds=end["seconds"])
    return _first(publication, earlier.publications if earlier else ())


def _first(publication: Publication, others: Iterable[Publication]) -> tuple[Publication, ...]:
    return (publication, *(other for other in others if other.name != publication.name))


def _published(receipt: Receipt, publisher: Publisher) -> Publication | None:
    return next((p for p in receipt.publications if publisher.holds(p)), None)
