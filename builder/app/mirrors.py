"""The network settings of a site, and the mirrors that builds download from."""

import threading
from collections.abc import Callable
from functools import cache

from builder.adapters.host.network import Network
from builder.adapters.upstream import mirror
from builder.adapters.upstream.mirror import Mirror
from builder.app.context import Context
from builder.model import Plan, Suite


def site_network(context: Context) -> Network:
    """Return the network settings of a site, for AWS, registries and other servers."""
    return mirror.connection(context.site.mirror).network


def mirrors_of(context: Context) -> Callable[[Plan], Mirror]:
    """Return a thread-safe function that maps a plan to the mirror that its build downloads from."""
    discovering = threading.Lock()

    @cache
    def discover(system: str, stack: str, suites: tuple[Suite, ...]) -> Mirror:
        catalog = context.catalog
        return mirror.discover(context.site.mirror, catalog.systems[system], catalog.stacks[stack], suites)

    def mirror_of(plan: Plan) -> Mirror:
        with discovering:
            return discover(plan.system.name, plan.stack.name, plan.suites)

    return mirror_of
