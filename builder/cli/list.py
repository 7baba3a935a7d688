"""`builder list`: the targets of the catalog."""

import argparse
from collections.abc import Sequence
from typing import Any

from builder.app.context import (
    SITES,
    Context,
    add_json,
    add_site_name,
    open_context,
    parser,
    print_json,
    print_table,
)
from builder.errors import UsageError
from builder.lock import LOCAL
from builder.model import Flavour, Target
from builder.plan import find_flavour

_DESCRIPTION = (
    "List the targets. The column `locked` says whether catalog/lock.json has every download of the default"
    " flavour; a build needs all of them, and `builder lock` adds the missing ones. The columns `local` and"
    " `aws` have the system of the default flavour for each site; `builder show` lists the flavours."
)


def options() -> argparse.ArgumentParser:
    found = parser("list", _DESCRIPTION)
    form = found.add_mutually_exclusive_group()
    add_json(form, "print JSON, with `locked` for every flavour")
    form.add_argument("--names", action="store_true", help="print names only, one per line")
    add_site_name(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    context = open_context(parsed)
    context.report_broken(context.catalog.broken)
    targets = context.catalog.targets.values()
    if parsed.names:
        print("\n".join(target.name for target in targets))
    elif parsed.json:
        print_json(parsed, [_as_json(context, target) for target in targets])
    else:
        rows = [(t.name, t.kind, _locked(context, t), *_systems(context, t), t.summary) for t in targets]
        print_table(("target", "kind", "locked", *SITES, "summary"), rows)
    return 0


def _systems(context: Context, target: Target) -> list[str]:
    return [_system(context, target, site) or "-" for site in SITES]


def _system(context: Context, target: Target, site: str) -> str:
    """Return the system of a target's default flavour for a site; "" if the site cannot build one."""
    try:
        name = find_flavour(target, site=site).system
    except UsageError:  # all its flavours are for another site
        return ""
    is_only_in_accounts = target.ami is not None and context.catalog.systems[name].bootstrap is None
    return "" if site == LOCAL and is_only_in_accounts else name


def _locked(context: Context, target: Target) -> str:
    """Return "yes", or how many downloads of the site's default flavour are not locked."""
    if (flavour := _default(context, target)) is None:
        return "no flavour"
    missing = len(context.unlocked(target, flavour))
    return f"{missing} missing" if missing else "yes"


def _default(context: Context, target: Target) -> Flavour | None:
    try:
        return context.flavour_of(target)
    except UsageError:  # all its flavours are for another site
        return None


def _as_json(context: Context, target: Target) -> dict[str, Any]:
    unlocked = {name: context.unlocked(target, flavour) for name, flavour in target.flavours.items()}
    default = _default(context, target)
    flavours = [
        {
            "name": flavour.name,
            "system": flavour.system,
            "stack": flavour.stack,
            "summary": flavour.summary,
            "locked": not unlocked[flavour.name],
            "unlocked": [str(want) for want in unlocked[flavour.name]],
        }
        for flavour in target.flavours.values()
    ]
    return {
        "name": target.name,
        "kind": target.kind,
        "summary": target.summary,
        "locked": default is not None and not unlocked[default.name],
        "systems": {site: _system(context, target, site) or None for site in SITES},
        "flavours": flavours,
    }
