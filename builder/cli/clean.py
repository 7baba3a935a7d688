"""`builder clean`: shows what the factory left behind on this machine, and removes it when told to."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from builder.adapters.engine.client import Engine
from builder.app.context import add_site, open_context, parser, print_table
from builder.app.leftovers import KEPT_RUNS, Limits, find_leftovers
from builder.screen.text import size
from builder.units import parse_size, parse_span


def run(argv: Sequence[str]) -> int:
    options = parser("clean", "Show what the factory left behind; --yes removes it.")
    options.add_argument("--yes", action="store_true", help="remove what is listed")
    options.add_argument(
        "--all", action="store_true", help="also every layer, cache and receipt that is still good"
    )
    options.add_argument(
        "--keep-last",
        type=_argument(_count),
        metavar="N",
        help=f"the newest N runs keep their logs (default: {KEPT_RUNS}; 0 with --older-than or --all)",
    )
    options.add_argument(
        "--older-than",
        type=_argument(parse_span),
        metavar="SPAN",
        help="only runs, layers and compressed layers not used for so long: 90m, 36h, 14d, 2w",
    )
    options.add_argument(
        "--max-size",
        type=_argument(parse_size),
        metavar="SIZE",
        help="compressed layers take no more than this, the least recently used go: 500M, 20G, 1.5T",
    )
    add_site(options)
    parsed = options.parse_args(argv)
    limits = Limits(
        everything=parsed.all,
        keep_last=parsed.keep_last,
        older_than_s=parsed.older_than,
        max_bytes=parsed.max_size,
    )
    found = list(find_leftovers(open_context(parsed), Engine(), limits))
    if not found:
        print("nothing to remove", file=sys.stderr)
        return 0
    print_table(("what", "why", "size"), [(left.what, left.why, size(left.size_bytes)) for left in found])
    total = size(sum(left.size_bytes for left in found))
    if not parsed.yes:
        again = shlex.join(["builder", "clean", "--yes", *argv])
        print(f"\nnothing was removed; {total} would be freed by: {again}", file=sys.stderr)
        return 0
    for left in found:
        left.remove()
    print(f"\nremoved: {len(found)}, {total} freed", file=sys.stderr)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"'{text}' is not a number of runs; write 0, 5 or 20")
    return int(text)


def _argument(parse: Callable[[str], float]) -> Callable[[str], float]:
    """A type for argparse whose errors keep their text."""

    def parse_argument(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument
