"""Compute the components of a flavour in canonical order, and their settings.

Pure functions over the catalog.
"""

import re
from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter

from builder.model import Catalog, Flavour, Stack, System, Target, Value

# Reference to a pin of the stack in a component's variable, such as {cuda}.
PIN_OF_STACK = re.compile(r"\{(\w+)\}")

# Component that compares a vendor's base image with the catalog, and its policies for the catalog
# components that the vendor's image already contains.
VENDOR_BASE = "vendor_base"
VERIFY_ONLY, PURGE_THEN_INSTALL, INSTALL = POLICIES = ("verify_only", "purge_then_install", "install")


def members_of(catalog: Catalog, target: Target, flavour: Flavour) -> tuple[str, ...]:
    """Return the components of a flavour in canonical order.

    Components of `if_pinned` are included if the flavour's stack has a version of them.
    """
    versions = catalog.stacks[flavour.stack].versions
    chosen = [name for name in target.if_pinned if name in versions]
    return closure(catalog, (*target.components, *flavour.components, *chosen))


def left_out(catalog: Catalog, target: Target, flavour: Flavour) -> dict[str, str]:
    """Map each `if_pinned` component that a flavour lacks to the reason given by its stack."""
    stack = catalog.stacks[flavour.stack]
    members = members_of(catalog, target, flavour)
    return {
        name: stack.without.get(name, f"stack '{stack.name}' does not pin it")
        for name in target.if_pinned
        if name not in members
    }


def settings_of(target: Target, flavour: Flavour) -> dict[str, Value]:
    """Return the role variables that a target and its flavour set."""
    return {**target.variables, **{f"{name}_policy": word for name, word in flavour.policy.items()}}


def policy_of(component: str, target: Target, flavour: Flavour) -> str:
    """Return the value set for the role variable <component>_policy, or "" if the role's default applies."""
    return str(settings_of(target, flavour).get(f"{component}_policy", ""))


def base_policy(target: Target, flavour: Flavour) -> str:
    """Return the policy for a vendor's base image, as users write it; "" if the flavour has no such base."""
    return policy_of(VENDOR_BASE, target, flavour).replace("_", "-")


def describe_base(system: System, stack: Stack) -> dict[str, Value]:
    """Return the variables of the role vendor_base: contents of the vendor's image, with known versions."""
    return {
        f"{VENDOR_BASE}_contains": list(system.contains),
        f"{VENDOR_BASE}_distributions": dict(system.distributions),
        f"{VENDOR_BASE}_versions": {
            name: stack.versions[name] for name in system.contains if name in stack.versions
        },
    }


def closure(catalog: Catalog, names: Iterable[str]) -> tuple[str, ...]:
    """Return `names` and their transitive requirements in canonical order.

    Components are ordered by layer, then by dependency, then by name. The order of two components is the
    same in every target, so equal sets of components give equal layers.
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
    """Sort all components into canonical order; each entry of `arrows` is (name, layer, predecessors)."""
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
