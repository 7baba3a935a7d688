"""The table of lanes by kind of target; a build imports only the lanes that it needs."""

import threading
from collections.abc import Callable, Mapping, Sequence

from builder.app.context import Context
from builder.app.lanes.lane import Lane
from builder.errors import UsageError
from builder.lock import ACCOUNT
from builder.model import Plan
from builder.plan import find_target


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


def obstacle_of(context: Context, target: str) -> str:
    """Return the reason why the site cannot build a target, or ""."""
    found = find_target(context.catalog, target)
    return open_lane(found.kind, context).obstacle(context.system_of(found))


def require_buildable(context: Context, target: str, *, verb: str) -> None:
    """Raise UsageError if the site cannot build a target."""
    if obstacle := obstacle_of(context, target):
        raise UsageError(
            f"target '{target}' cannot be rehearsed: {obstacle}",
            hint=f"builder {verb} --target {target} --site {ACCOUNT}",
        )


def open_lanes(context: Context, plans: Sequence[Plan], cancelled: threading.Event) -> dict[str, Lane]:
    """Return the lanes of the plans, by kind."""
    return {kind: open_lane(kind, context, cancelled) for kind in sorted({p.target.kind for p in plans})}
