"""`builder registry`: the registry on this machine, for sites that configure no other registry."""

import sys
from collections.abc import Sequence

from builder.adapters.registry import local
from builder.app.context import open_context, parser


def run(argv: Sequence[str]) -> int:
    options = parser(
        "registry",
        "Start or stop the registry on this machine, or print its address. It listens on loopback only.",
    )
    options.add_argument("action", choices=("up", "down", "status"))
    parsed = options.parse_args(argv)
    workspace = open_context(parsed).workspace
    if parsed.action == "up":
        print(local.ensure_up(workspace))
        return 0
    if parsed.action == "down":
        print("stopped" if local.stop(workspace) else "was not running", file=sys.stderr)
        return 0
    host = local.find(workspace)
    print(host or "not running")
    return 0 if host else 3
