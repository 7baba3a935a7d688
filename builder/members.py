"""Which components a target has, in the one canonical order.

Pure functions over the catalog.
"""

import dataclasses
from collections.abc import Iterable
from graphlib import TopologicalSorter

from builder.model import Catalog, Target


def on_system(target: Target, system: str) -> Target:
    """The target on one of its systems, with the stack that it has there."""
    if system == target.system:
        return target
    return dataclasses.replace(target, system=system, stack=target.systems[system])


def members_of(catalog: Catalog, target: Target) -> tuple[str, ...]:
    """All components of a target in canonical order; its stack decides about those that it may leave out."""
    pins = catalog.stacks[target.stack].pins
    chosen = [name for name in target.if_pinned if name in pins]
    return closure(catalog, (*target.components, *chosen))


def closure(catalog: Catalog, names: Iterable[str]) -> tuple[str, ...]:
    """`names` with all that they require, in the one canonical order.

    Layer by layer; within a layer what is required comes first, and names decide the rest.
    The order of any two components is the same in every target, so equal sets give equal layers.
    """
    components = catalog.components
    members: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in members:
            members.add(name)
            pending.extend(components[name].requires)
    return tuple(name for name in _rank(catalog) if name in members)


def _rank(catalog: Catalog) -> list[str]:
    """All components in canonical order."""
    ranked: list[str] = []
    for layer in catalog.layers:
        group = {name for name, component in catalog.components.items() if component.layer == layer}
        sorter = TopologicalSorter(
            {
                name: group.intersection(
                    (*catalog.components[name].requires, *catalog.components[name].after)
                )
                for name in sorted(group)
            }
        )
        sorter.prepare()
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            ranked.extend(ready)
            sorter.done(*ready)
    return ranked
