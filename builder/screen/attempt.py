"""A run as far as it got: what the closing summary and the report are written from.

A receipt exists only for an artifact; a run that failed has a plan and some layers, and is told the same way.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from builder.errors import FactoryError
from builder.events import Event
from builder.model import Layer, LayerResult, Plan, Publication, Receipt, Report
from builder.screen.steps import Board


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """Like a receipt, but the artifact may be missing and `error` may say why."""

    run: str
    created: str
    commit: str
    plan: Plan
    reference: str = ""
    layers: tuple[LayerResult, ...] = ()
    report: Report | None = None
    publications: tuple[Publication, ...] = ()
    error: FactoryError | None = None

    @property
    def verdict(self) -> str:
        """ready, unchecked, or failed: by its error or by its checks."""
        if self.error or (self.report and not self.report.passed):
            return "failed"
        return "ready" if self.report else "unchecked"

    @property
    def name(self) -> str:
        """What to call the result: the published name by digest, else what the engine knows."""
        return self.publications[0].name if self.publications else self.reference

    def layers_with(self, *outcomes: str) -> tuple[LayerResult, ...]:
        return tuple(layer for layer in self.layers if layer.outcome in outcomes)


def layers_of(plan: Plan) -> tuple[Layer, ...]:
    """The layers that are made one by one; a machine image is made in one go, of all components."""
    if plan.target.kind != "ami":
        return plan.layers
    return (dataclasses.replace(plan.layers[-1], name="image", components=plan.components),)


def attempt_of(receipt: Receipt) -> Attempt:
    return Attempt(
        run=receipt.run,
        created=receipt.created,
        commit=receipt.commit,
        plan=receipt.plan,
        reference=receipt.artifact.reference,
        layers=receipt.artifact.layers,
        report=receipt.report,
        publications=receipt.publications,
    )


def attempt_after(
    error: FactoryError,
    *,
    plan: Plan,
    events: Iterable[Event],
    run: str,
    created: str,
    commit: str,
    report: Report | None = None,
) -> Attempt:
    """What remains of a run that ended in `error`: its layers as its events tell them."""
    board = Board()
    for event in events:
        board.read(event)
    board.stop(board.last_s)
    # A layer that several targets share is a step of each: this target's own step comes last and wins.
    rows = sorted(board.rows.values(), key=lambda row: row.target == plan.target.name)
    steps = {row.key: row for row in rows if row.key}
    layers = tuple(
        LayerResult(
            name=layer.name,
            key=layer.key,
            outcome=row.outcome,
            reason=row.reason,
            image="",
            seconds=row.took_s,
            size_bytes=row.size_bytes,
            components=layer.components,
        )
        for layer in layers_of(plan)
        if (row := steps.get(layer.key))
    )
    return Attempt(
        run=run, created=created, commit=commit, plan=plan, layers=layers, report=report, error=error
    )
