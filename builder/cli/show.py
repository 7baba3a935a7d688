"""`builder show TARGET`: shows the flavours, components and versions of a target."""

import argparse
from collections.abc import Sequence

from builder.app.context import (
    add_json,
    add_site,
    add_targets,
    base_facts,
    find_one_target,
    open_context,
    parser,
    print_facts,
    print_json,
    print_table,
    print_verdict,
)
from builder.members import base_policy, left_out
from builder.model import Target
from builder.plan import to_json


def options() -> argparse.ArgumentParser:
    found = parser(
        "show", "Show the flavours, components and versions of a target; --json adds variables and layers."
    )
    add_targets(found)
    add_json(found, "print the whole plan as JSON")
    add_site(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    context = open_context(parsed)
    plan = context.plan(find_one_target(context, parsed, verb="show"))
    if parsed.json:
        print_json(parsed, to_json(plan))
        return 0
    target, system, stack = plan.target, plan.system, plan.stack
    aliases = tuple(alias for alias, name in context.catalog.aliases.items() if name == target.name)
    print(f"{target.name}: {target.summary}\n")
    print_facts(
        [
            *([("also named", aliases)] if aliases else []),
            ("kind", target.kind),
            ("flavour", f"{plan.flavour.name}: {plan.flavour.summary}"),
            ("system", f"{system.name}: {system.summary}"),
            ("stack", f"{stack.name}: {stack.summary}"),
            ("architecture", plan.arch),
            *base_facts(plan),
            ("workload", f"containers/{target.workload}" if target.workload else "none"),
        ],
    )
    print()
    print_flavours(target)
    rows = []
    for layer in plan.layers:
        for name in layer.components:
            component = context.catalog.components[name]
            rows.append((layer.name, name, plan.versions.get(name, ""), component.summary))
    print()
    print_table(("layer", "component", "version", "summary"), rows)
    if missing := left_out(context.catalog, target, plan.flavour):
        print()
        print_table(("left out", "why"), sorted(missing.items()))
    print_verdict(plan)
    python = [(n, v) for n, v in sorted(plan.versions.items()) if n not in plan.components]
    if python:
        print()
        print_table(("Python package", "version"), python)
    return 0


def print_flavours(target: Target) -> None:
    """Print the flavours of a target; show the policy column only if a flavour builds on a vendor's image."""
    policies = {flavour.name: base_policy(target, flavour) for flavour in target.flavours.values()}
    has_vendor = any(policies.values())
    print_table(
        ("flavour", "system", "stack", *(["policy"] if has_vendor else []), "summary"),
        [
            (
                flavour.name,
                flavour.system,
                flavour.stack,
                *([policies[flavour.name] or "-"] if has_vendor else []),
                flavour.summary,
            )
            for flavour in target.flavours.values()
        ],
    )
