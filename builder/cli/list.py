"""`builder list`: the targets of the catalog."""

import json
from collections.abc import Sequence
from typing import Any

from builder.app.context import open_context, parser, print_table
from builder.model import Target


def run(argv: Sequence[str]) -> int:
    options = parser("list", "What can be built.")
    options.add_argument("--json", action="store_true", help="as JSON")
    options.add_argument("--names", action="store_true", help="names only, one a line")
    parsed = options.parse_args(argv)
    targets = open_context(parsed).catalog.targets.values()
    if parsed.names:
        print("\n".join(target.name for target in targets))
    elif parsed.json:
        print(json.dumps([_as_json(target) for target in targets], indent=2))
    else:
        # A row is one line; `builder show` has the rest of the sentence.
        rows = [(t.name, t.kind, ", ".join(t.flavours), t.summary.partition(":")[0]) for t in targets]
        print_table(("target", "kind", "flavours", "what it is"), rows)
    return 0


def _as_json(target: Target) -> dict[str, Any]:
    flavours = [
        {"name": flavour.name, "system": flavour.system, "stack": flavour.stack, "summary": flavour.summary}
        for flavour in target.flavours.values()
    ]
    return {"name": target.name, "kind": target.kind, "summary": target.summary, "flavours": flavours}
