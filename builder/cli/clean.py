"""`builder clean`: lists the leftovers of builds, and removes them with --yes."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from builder.adapters.ami import inventory
from builder.adapters.ami.family import regions_of
from builder.adapters.ami.inventory import Item
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import is_run_name, without_runs
from builder.app.account import SiteAccount
from builder.app.context import (
    Context,
    add_json,
    add_site_name,
    open_context,
    parser,
    print_json,
    print_table,
)
from builder.app.interrupts import interruptible
from builder.app.leftovers import KEPT_RUNS, Leftover, Limits, find_leftovers
from builder.errors import UsageError, with_result
from builder.screen.text import count, size
from builder.units import parse_size, parse_span


def options() -> argparse.ArgumentParser:
    found = parser("clean", "List what builds left behind; with --yes, remove it.")
    found.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="only what this run left behind, such as an instance that --keep-failed kept",
    )
    found.add_argument("--yes", action="store_true", help="remove the listed items")
    found.add_argument(
        "--all", action="store_true", help="also layers, caches and receipts that are still valid"
    )
    found.add_argument(
        "--everything",
        action="store_true",
        help="list all that builds ever created in the AWS account; delete it after confirmation",
    )
    found.add_argument(
        "--keep-last",
        type=_argument(_count),
        metavar="N",
        help=f"keep the logs of the newest N runs (default: {KEPT_RUNS}; 0 with --older-than or --all)",
    )
    found.add_argument(
        "--older-than",
        type=_argument(parse_span),
        metavar="SPAN",
        help="only runs and layers not used for this long: 90m, 36h, 14d, 2w",
    )
    found.add_argument(
        "--max-size",
        type=_argument(parse_size),
        metavar="SIZE",
        help="limit for compressed layers: 500M, 20G, 1.5T; the least recently used are removed",
    )
    add_json(found)
    add_site_name(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    _require_consistent(parsed)
    if parsed.everything:
        return _empty_account(open_context(parsed), parsed)
    limits = Limits(
        everything=parsed.all,
        keep_last=parsed.keep_last,
        older_than_s=parsed.older_than,
        max_bytes=parsed.max_size,
    )
    context = open_context(parsed)
    # New runs wait while items are removed, because a run could use one of the items.
    with without_runs(context.workspace) as is_idle:
        items = find_leftovers(context, Engine(), limits, is_idle=is_idle)
        found = [item for item in items if parsed.run in (None, item.run)]
        return _show_or_remove(found, argv, parsed)


def _require_consistent(parsed: argparse.Namespace) -> None:
    given = [name for name in ("keep_last", "older_than", "max_size") if getattr(parsed, name) is not None]
    if parsed.all and set(given) - {"keep_last"}:
        raise UsageError(
            "builder clean: --all removes everything and is not allowed with --older-than or --max-size",
            hint="builder clean --all",
        )
    if parsed.everything and (parsed.all or parsed.run or given):
        raise UsageError(
            "builder clean: --everything is not allowed with RUN, --all or a limit",
            hint="builder clean --everything",
        )
    if parsed.run is None:
        return
    if not is_run_name(parsed.run):
        raise UsageError(f"'{parsed.run}' is not the name of a run", hint="builder clean")
    if parsed.all or given:
        option = "--all" if parsed.all else f"--{given[0].replace('_', '-')}"
        raise UsageError(
            f"builder clean: RUN is not allowed with {option}", hint=f"builder clean {parsed.run}"
        )


def _empty_account(context: Context, parsed: argparse.Namespace) -> int:
    """List the resources that any builder created in the account; delete them if the user confirms."""
    with without_runs(context.workspace) as is_idle, interruptible():
        if parsed.yes and not is_idle:
            raise UsageError(
                "a build is in progress; nothing was deleted",
                hint="wait until the build has ended; to see its log: builder logs",
            )
        account = SiteAccount(context).account
        number = account.account_id()
        found = inventory.everything(account, regions_of(account), context.site.aws.parameters, _say)
        if parsed.json:
            with with_result({"account": number, "items": _tables(found), "removed": False}):
                inventory.delete(account, found if parsed.yes else (), _say)
            print_json(parsed, {"account": number, "items": _tables(found), "removed": parsed.yes})
            return 0
        if not found:
            print(f"account {number} has no resources that builds created", file=sys.stderr)
            return 0
        print_table(("region", "kind", "id", "what"), [tuple(table.values()) for table in _tables(found)])
        if parsed.yes or _agrees(number, len(found)):
            inventory.delete(account, found, _say)
            print(f"\ndeleted {count(len(found), 'resource')} of account {number}", file=sys.stderr)
    return 0


def _agrees(number: str, items: int) -> bool:
    """True if the user confirms a deletion by typing the AWS account number."""
    if not sys.stdin.isatty():
        print("\nnothing was deleted; to delete all of it, add --yes", file=sys.stderr)
        return False
    question = f"\ndelete {count(items, 'resource')} for good? type the account number, {number}, to agree: "
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() == number:
        return True
    print("nothing was deleted", file=sys.stderr)
    return False


def _tables(items: Sequence[Item]) -> list[dict[str, str]]:
    return [{"region": i.region, "kind": i.kind, "id": i.id, "what": i.text} for i in items]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _show_or_remove(found: Sequence[Leftover], argv: Sequence[str], parsed: argparse.Namespace) -> int:
    if parsed.json:
        return _as_json(found, parsed)
    if not found:
        print("nothing to remove", file=sys.stderr)
        return 0
    print_table(("item", "why", "size"), [(item.name, item.why, size(item.size_bytes)) for item in found])
    total = size(sum(item.size_bytes for item in found))
    if not parsed.yes:
        again = shlex.join(["builder", "clean", "--yes", *argv])
        print(f"\nnothing was removed; {total} would be freed by: {again}", file=sys.stderr)
        return 0
    for item in found:
        item.remove()
    print(f"\nremoved {count(len(found), 'item')}, {total} freed", file=sys.stderr)
    return 0


def _as_json(found: Sequence[Leftover], parsed: argparse.Namespace) -> int:
    """Print removable items and their total size as JSON; remove the items with --yes."""
    items = [{"name": item.name, "why": item.why, "size_bytes": item.size_bytes} for item in found]
    total = sum(item.size_bytes for item in found)
    result = {"items": items, "size_bytes": total, "removed": parsed.yes}
    if parsed.yes:
        with with_result({**result, "removed": False}):
            for item in found:
                item.remove()
    print_json(parsed, result)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"'{text}' is not a number of runs such as 0, 5 or 20")
    return int(text)


def _argument(parse: Callable[[str], float]) -> Callable[[str], float]:
    """Return an argparse type that calls `parse` and reports the message of its ValueError."""

    def parse_argument(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument
