"""`builder clean`: lists the leftovers of builds, and removes them with --yes."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import without_runs
from builder.app.context import add_site, open_context, parser, print_table
from builder.app.leftovers import KEPT_RUNS, Leftover, Limits, find_leftovers
from builder.screen.text import count, size
from builder.units import parse_size, parse_span


def run(argv: Sequence[str]) -> int:
    options = parser("clean", "List what builds left behind; with --yes, remove it.")
    options.add_argument("--yes", action="store_true", help="remove the listed items")
    options.add_argument(
        "--all", action="store_true", help="also layers, caches and receipts that are still valid"
    )
    options.add_argument(
        "--keep-last",
        type=_argument(_count),
        metavar="N",
        help=f"keep the logs of the newest N runs (default: {KEPT_RUNS}; 0 with --older-than or --all)",
    )
    options.add_argument(
        "--older-than",
        type=_argument(parse_span),
        metavar="SPAN",
        help="only runs and layers not used for this long: 90m, 36h, 14d, 2w",
    )
    options.add_argument(
        "--max-size",
        type=_argument(parse_size),
        metavar="SIZE",
        help="limit for compressed layers: 500M, 20G, 1.5T; the least recently used are removed",
    )
    add_site(options)
    parsed = options.parse_args(argv)
    limits = Limits(
        everything=parsed.all,
        keep_last=parsed.keep_last,
        older_than_s=parsed.older_than,
        max_bytes=parsed.max_size,
    )
    context = open_context(parsed)
    # A run that begins while items are removed waits: it could use one of them.
    with without_runs(context.workspace) as is_idle:
        found = list(find_leftovers(context, Engine(), limits, is_idle=is_idle))
        return _show_or_remove(found, argv, yes=parsed.yes)


def _show_or_remove(found: Sequence[Leftover], argv: Sequence[str], *, yes: bool) -> int:
    if not found:
        print("nothing to remove", file=sys.stderr)
        return 0
    print_table(("item", "why", "size"), [(item.name, item.why, size(item.size_bytes)) for item in found])
    total = size(sum(item.size_bytes for item in found))
    if not yes:
        again = shlex.join(["builder", "clean", "--yes", *argv])
        print(f"\nnothing was removed; {total} would be freed by: {again}", file=sys.stderr)
        return 0
    for item in found:
        item.remove()
    print(f"\nremoved {count(len(found), 'item')}, {total} freed", file=sys.stderr)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"'{text}' is not a number of runs; write 0, 5 or 20")
    return int(text)


def _argument(parse: Callable[[str], float]) -> Callable[[str], float]:
    """Return an argparse type whose errors keep the message of `parse`."""

    def parse_argument(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument
