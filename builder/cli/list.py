"""`builder list`: the targets of the catalog."""

import json
from collections.abc import Sequence

from builder.app.context import open_context, parser, print_table


def run(argv: Sequence[str]) -> int:
    options = parser("list", "What can be built.")
    options.add_argument("--json", action="store_true", help="as JSON")
    options.add_argument("--names", action="store_true", help="names only, one a line")
    parsed = options.parse_args(argv)
    targets = open_context(parsed).catalog.targets.values()
    if parsed.names:
        print("\n".join(target.name for target in targets))
    elif parsed.json:
        keys = ("name", "kind", "system", "stack", "summary")
        print(json.dumps([{key: getattr(target, key) for key in keys} for target in targets], indent=2))
    else:
        # A row is one line; `builder show` has the rest of the sentence.
        rows = [(t.name, t.kind, t.system, t.stack, t.summary.partition(":")[0]) for t in targets]
        print_table(("target", "kind", "system", "stack", "what it is"), rows)
    return 0
