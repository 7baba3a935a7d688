"""Maps each kind of target to its lane; a build imports only the lanes that it needs."""

import threading
from collections.abc import Callable, Mapping, Sequence

from builder.app.context import Context
from builder.app.lanes.lane import Lane, Request
from builder.model import Plan
from builder.pipeline import require_allowed, require_locked


def _open_ami(context: Context, cancelled: threading.Event) -> Lane:
    from builder.app.lanes.ami import AmiLane

    return AmiLane(context, cancelled)


def _open_container(context: Context, cancelled: threading.Event) -> Lane:
    from builder.app.lanes.container import ContainerLane

    return ContainerLane(context, cancelled)


# Each opener imports its own lane: a container build must not import the AWS SDK.
LANES: Mapping[str, Callable[[Context, threading.Event], Lane]] = {
    "ami": _open_ami,
    "container": _open_container,
}


def open_lane(kind: str, context: Context, cancelled: threading.Event | None = None) -> Lane:
    return LANES[kind](context, cancelled or threading.Event())


def require_possible(context: Context, plans: Sequence[Plan]) -> None:
    """Raise an error if `builder build` would refuse one of the plans."""
    for plan in plans:
        open_lane(plan.target.kind, context).require_buildable(plan)
    require_locked(plans)
    require_allowed(plans)


def require_supported(lanes: Mapping[str, Lane], plans: Sequence[Plan], request: Request) -> None:
    """Raise UsageError if an option of the request does not apply to one of the plans."""
    for kind, lane in lanes.items():
        lane.require_supported([plan for plan in plans if plan.target.kind == kind], request)


def open_lanes(context: Context, plans: Sequence[Plan], cancelled: threading.Event) -> dict[str, Lane]:
    """Return the lanes of the plans, by kind."""
    return {kind: open_lane(kind, context, cancelled) for kind in sorted({p.target.kind for p in plans})}
