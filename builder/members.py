"""The components of a flavour, in the one canonical order, and what is set for them.

Pure functions over the catalog.
"""

from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter

from builder.model import Catalog, Flavour, Target, Value


def members_of(catalog: Catalog, target: Target, flavour: Flavour) -> tuple[str, ...]:
    """All components of a flavour in canonical order; its stack decides about those of `if_pinned`."""
    versions = catalog.stacks[flavour.stack].versions
    chosen = [name for name in target.if_pinned if name in versions]
    return closure(catalog, (*target.components, *flavour.components, *chosen))


def left_out(catalog: Catalog, target: Target, flavour: Flavour) -> dict[str, str]:
    """The components of `if_pinned` that a flavour lacks, each with the reason of its stack."""
    stack = catalog.stacks[flavour.stack]
    members = members_of(catalog, target, flavour)
    return {
        name: stack.without.get(name, f"stack '{stack.name}' does not pin it")
        for name in target.if_pinned
        if name not in members
    }


def settings_of(target: Target, flavour: Flavour) -> dict[str, Value]:
    """The role variables that a target and its flavour set."""
    return {**target.variables, **{f"{name}_policy": word for name, word in flavour.policy.items()}}


def policy_of(component: str, target: Target, flavour: Flavour) -> str:
    """The policy that is set for a component; "" where its role decides."""
    return str(settings_of(target, flavour).get(f"{component}_policy", ""))


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
    arrows = tuple((c.name, c.layer, (*c.requires, *c.after)) for c in components.values())
    return tuple(name for name in _order(catalog.layers, arrows) if name in members)


@cache
def _order(layers: tuple[str, ...], arrows: tuple[tuple[str, str, tuple[str, ...]], ...]) -> tuple[str, ...]:
    """All components in canonical order; `arrows` are their names, layers and predecessors."""
    ranked: list[str] = []
    for layer in layers:
        group = {name: before for name, own, before in arrows if own == layer}
        sorter = TopologicalSorter(
            {name: group.keys() & set(before) for name, before in sorted(group.items())}
        )
        sorter.prepare()
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            ranked.extend(ready)
            sorter.done(*ready)
    return tuple(ranked)
