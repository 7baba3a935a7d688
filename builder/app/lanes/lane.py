"""The interface of a lane, and the table of lanes by kind of target."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.app.context import Context
from builder.events import Stream
from builder.model import Plan, Receipt, System
from builder.pipeline import Search, Tools
from builder.ports import Ledger


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all lanes of one run share."""

    run: Run
    events: Stream
    ledger: Ledger
    mirror: Callable[[Plan], Mirror]
    jobs: int
    publish: bool


class Lane(Protocol):
    """Finds, makes, checks and publishes the targets of one kind; opened once for each command."""

    def search(self, ledger: Ledger, *, publish: bool) -> Search: ...

    def begin(self, work: Work) -> Tools: ...

    def end(self, run: Run) -> None:
        """Remove what a run has left, after its workers have ended."""

    def base_source(self, plan: Plan) -> Sequence[tuple[str, str]]:
        """(what, from where) of a base that is not made of the system's package archive."""

    def next_command(self, receipt: Receipt) -> str:
        """The command to try after a build."""

    # What only some lanes have to do.

    def obstacle(self, system: System) -> str:
        """Why this site cannot make the kind on `system`; "" where it can."""
        del system
        return ""

    def prepare(self, plans: Sequence[Plan], *, publish: bool) -> None:
        """Tell where the plans will be made; refuse what could not be published."""
        del plans, publish

    def confirm(self, plans: Sequence[Plan], *, yes: bool) -> None:
        """Ask before these plans create anything that costs money."""
        del plans, yes

    def clear_dead(self) -> None:
        """Remove what runs left outside this machine whose process is gone."""
        return

    def stop(self, run: Run) -> None:
        """Remove what the workers of a run use now, so that they end soon."""
        del run

    def changing_calls(self, plan: Plan, *, publish: bool) -> Sequence[tuple[str, str]]:
        """(service, call) of everything that would change an account."""
        del plan, publish
        return ()


def _open_ami(context: Context, cancelled: threading.Event) -> Lane:
    from builder.app.lanes.ami import AmiLane

    return AmiLane(context, cancelled)


def _open_container(context: Context, cancelled: threading.Event) -> Lane:
    from builder.app.lanes.container import ContainerLane

    return ContainerLane(context, cancelled)


# Each opener imports its own lane: a build of containers never loads what AMIs need.
LANES: Mapping[str, Callable[[Context, threading.Event], Lane]] = {
    "ami": _open_ami,
    "container": _open_container,
}


def open_lane(kind: str, context: Context, cancelled: threading.Event | None = None) -> Lane:
    return LANES[kind](context, cancelled or threading.Event())


def open_lanes(context: Context, plans: Sequence[Plan], cancelled: threading.Event) -> dict[str, Lane]:
    """The lanes that these plans need, by kind."""
    return {kind: open_lane(kind, context, cancelled) for kind in sorted({p.target.kind for p in plans})}
