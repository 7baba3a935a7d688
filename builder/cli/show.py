"""`builder show TARGET`: shows the flavours, components and versions of a target."""

import json
from collections.abc import Sequence

from builder.app.context import add_site, open_context, parser, print_table, print_verdict
from builder.members import left_out
from builder.plan import to_json


def run(argv: Sequence[str]) -> int:
    options = parser(
        "show", "Show the flavours, components and versions of a target; --json adds variables and layers."
    )
    options.add_argument("target", help="name of a target (builder list)")
    options.add_argument("--json", action="store_true", help="print the whole plan as JSON")
    add_site(options)
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    plan = context.plan(parsed.target)
    if parsed.json:
        print(json.dumps(to_json(plan), indent=2))
        return 0
    target, system, stack = plan.target, plan.system, plan.stack
    print(f"{target.name}: {target.summary}\n")
    print_table(
        ("", ""),
        [
            ("kind", target.kind),
            ("flavour", f"{plan.flavour.name}: {plan.flavour.summary}"),
            ("system", f"{system.name}: {system.summary}"),
            ("stack", f"{stack.name}: {stack.summary}"),
            ("architecture", plan.arch),
            ("workload", f"containers/{target.workload}" if target.workload else "none"),
        ],
    )
    print()
    print_table(
        ("flavour", "system", "stack", "summary"),
        [
            (flavour.name, flavour.system, flavour.stack, flavour.summary)
            for flavour in target.flavours.values()
        ],
    )
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
