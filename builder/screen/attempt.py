"""Result of a finished or failed run, from which the summary and the HTML report are rendered.

A failed run has no receipt, only a plan and some layers; `Attempt` represents both cases.
"""

import dataclasses
from collections.abc import Iterable

from builder.checkpoints import checkpoints
from builder.errors import FactoryError
from builder.events import Event
from builder.model import Layer, LayerResult, Plan, Publication, Receipt, Report
from builder.screen.steps import Board
from builder.values import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """Result of a run: a receipt whose artifact may be missing, and the error of a failed run."""

    run: str
    created: str
    commit: str
    plan: Plan
    reference: str = ""
    layers: tuple[LayerResult, ...] = ()
    report: Report | None = None
    publications: tuple[Publication, ...] = ()
    error: FactoryError | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """Return "failed" after an error or failed check, "unchecked" without a report, else "ready"."""
        if self.error or (self.report and not self.report.passed):
            return "failed"
        return "ready" if self.report else "unchecked"

    @property
    def name(self) -> str:
        """Return the published name with digest; if this run published nothing, the image id or AMI id."""
        return next((item.name for item in self.published), self.reference)

    @property
    def published(self) -> tuple[Publication, ...]:
        """The publications of this run."""
        return tuple(item for item in self.publications if self.seconds and item.run == self.run)

    @property
    def published_before(self) -> tuple[Publication, ...]:
        """The publications of earlier runs."""
        return tuple(item for item in self.publications if item not in self.published)

    @property
    def expected(self) -> tuple[Layer, ...]:
        """The layers of the run; for an AMI, only the checkpoints that the run used or began to make."""
        made = {layer.key for layer in self.layers}
        return tuple(each for each in layers_of(self.plan) if not each.checkpoint or each.key in made)

    def layers_with(self, *outcomes: str) -> tuple[LayerResult, ...]:
        return tuple(layer for layer in self.layers if layer.outcome in outcomes)


def layers_of(plan: Plan) -> tuple[Layer, ...]:
    """Return the layers that are built separately; for an AMI, its checkpoints and the AMI itself."""
    if plan.target.kind != "ami":
        return plan.layers
    kept = (
        dataclasses.replace(found.layers[-1], key=found.key, components=found.components)
        for found in checkpoints(plan)
    )
    image = dataclasses.replace(plan.layers[-1], name="image", components=plan.components, checkpoint=False)
    return (*kept, image)


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
        seconds=receipt.seconds,
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
    """Return the result of a run that failed with `error`; its layers are read from its events."""
    board = Board()
    for event in events:
        board.read(event)
    board.stop(board.last_s)
    # Each target that shares a layer has a step for it; this target's step is sorted last and wins.
    rows = sorted(board.rows.values(), key=lambda row: row.target == plan.target.name)
    own = [row for row in rows if row.target == plan.target.name]
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
        run=run,
        created=created,
        commit=commit,
        plan=plan,
        layers=layers,
        report=report,
        error=error,
        seconds=max(row.ended_s for row in own) - min(row.started_s for row in own) if own else 0.0,
    )
