"""`builder ami`: manages built AMIs, in an account or in its rehearsal."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder.adapters.ami import family, steps
from builder.adapters.ami.family import Member
from builder.adapters.ami.publisher import LATEST
from builder.adapters.ami.steps import Sharing
from builder.adapters.host import receipts
from builder.adapters.host.workspace import open_run
from builder.app.account import SiteAccount
from builder.app.context import Context, add_site, open_context, parser, print_table
from builder.app.interrupts import interruptible
from builder.app.lanes.ami import open_publisher
from builder.errors import UsageError
from builder.marks import KEY_TAG, RUN_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG

_AMI_ID = re.compile(r"ami-[0-9a-f]{8,17}")
_IMAGE_HELP = "AMI ID in the site's region, target (means its newest receipt), or path of a receipt"


def run(argv: Sequence[str]) -> int:
    options = parser("ami", "Manage built AMIs: list, show, copy, share, deprecate, publish or retire them.")
    options.add_argument("action", choices=_ACTIONS)
    options.add_argument("image", nargs="?", default="", metavar="IMAGE", help=_IMAGE_HELP)
    options.add_argument(
        "--region", action="append", default=[], help="copy: region to copy to; may be repeated"
    )
    options.add_argument(
        "--account", action="append", default=[], help="share: AWS account number; may be repeated"
    )
    options.add_argument(
        "--organization",
        action="append",
        default=[],
        metavar="ARN",
        help="share: ARN of an organization or organizational unit; may be repeated",
    )
    options.add_argument("--after", type=int, default=0, metavar="DAYS", help="deprecate: days from today")
    options.add_argument(
        "--force", action="store_true", help="retire: even if a 'latest' parameter points to the AMI"
    )
    options.add_argument("--yes", action="store_true", help="retire: do not ask for confirmation")
    options.add_argument("--json", action="store_true", help="list, show: print JSON")
    add_site(options)
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    with interruptible():
        return _ACTIONS[parsed.action](context, SiteAccount(context), parsed)


def _list(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    members = family.all_of(site.account, _regions(context, site))
    names = family.pointers(members, context.site.aws.parameters)
    rows = [_row(member, names.get(member.ref, [])) for member in members]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    else:
        print("no AMIs were built in this account", file=sys.stderr)
    return 0


def _row(member: Member, names: Sequence[str]) -> dict[str, str]:
    tags = member.tags
    newest = any(f"/{LATEST}/" in name for name in names)
    return {
        "target": tags.get(TARGET_TAG, ""),
        "system": tags.get(SYSTEM_TAG, ""),
        "stack": tags.get(STACK_TAG, ""),
        "region": member.ref.region,
        "ami": member.ref.ami,
        "created": str(member.image["CreationDate"])[:16],
        "state": str(member.image["State"]),
        "published": LATEST if newest else "yes" if names else "no",
    }


def _show(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    members = _family(context, site, options)
    names = family.pointers(members, context.site.aws.parameters)
    tables = [family.describe(member, names.get(member.ref, [])) for member in members]
    if options.json:
        print(json.dumps(tables, indent=2))
        return 0
    for table in tables:
        print_table(("", ""), [(name, _text(value)) for name, value in table.items()])
        print()
    return 0


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _copy(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    home = _family(context, site, options)[0]
    wanted = [region for region in options.region if region != home.ref.region]
    if not wanted:
        raise UsageError(
            "builder ami copy: no region to copy to",
            hint=f"pass --region REGION, other than {home.ref.region}",
        )
    unknown = sorted(set(wanted) - set(family.regions_of(site.account)))
    if unknown:
        raise UsageError(f"the account has no region {unknown[0]}", hint="builder ami --help")
    with open_run(context.workspace, "copy") as run:
        publisher = open_publisher(site, run.cancelled, run=run, say=_say)
        tags = steps.own_tags(home.image)
        publisher.finish(home.ref, tags)
        for region in wanted:
            print(publisher.copy(home.ref, region, tags))
    return 0


def _share(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    sharing = Sharing(accounts=tuple(options.account), organizations=tuple(options.organization))
    if not sharing:
        raise UsageError(
            "builder ami share: no account given", hint="pass --account NUMBER or --organization ARN"
        )
    return _each(context, site, options, lambda member: steps.share(member.ref, sharing))


def _deprecate(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    if options.after < 1:
        raise UsageError(f"--after {options.after}: must be at least 1 day", hint="builder ami --help")
    return _each(
        context,
        site,
        options,
        lambda member: steps.deprecate(member.ref, after_days=options.after, again=True),
    )


def _each(
    context: Context, site: SiteAccount, options: argparse.Namespace, act: Callable[[Member], None]
) -> int:
    for member in _family(context, site, options):
        act(member)
        print(member.ref)
    return 0


def _publish(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    home = _family(context, site, options)[0]
    missing = sorted({TARGET_TAG, KEY_TAG, STACK_TAG, SYSTEM_TAG} - set(home.tags))
    if missing:
        raise UsageError(
            f"{home.ref} was not built by `builder`: it has no tag {missing[0]}",
            hint="builder build --target NAME --publish",
        )
    _require_checked(context, home)
    with open_run(context.workspace, "publish") as run:
        publication = open_publisher(site, run.cancelled, run=run, say=_say).publish_image(
            home.ref.ami, {name: value for name, value in home.tags.items() if name != RUN_TAG}
        )
    for name in publication.tags:
        print(name)
    return 0


def _require_checked(context: Context, home: Member) -> None:
    """Refuse to publish an AMI whose checks have not passed."""
    receipt = receipts.of_reference(context.workspace.out, home.ref.ami)
    if receipt is None:
        raise UsageError(
            f"{home.ref} has no receipt on this machine, so its check results are unknown",
            hint=f"builder build --target {home.tags[TARGET_TAG]} --publish",
        )
    checks = (receipt.get("report") or {}).get("checks", ())
    outcomes = {check["outcome"] for check in checks}
    if "passed" not in outcomes or "failed" in outcomes:
        raise UsageError(
            f"{home.ref} has not passed its checks",
            hint=f"builder build --target {home.tags[TARGET_TAG]} --publish",
        )


def _retire(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    ami = _reference(context, options)
    regions = family.regions_of(site.account)
    members = family.family(site.account, ami, regions)
    family.require_built(members)
    print("\n".join(f"will be removed: {member.ref}" for member in members), file=sys.stderr)
    if not options.yes:
        _confirm(ami)
    family.retire(
        site.account,
        ami,
        regions,
        prefix=context.site.aws.parameters,
        force=options.force,
        say=print,
    )
    return 0


def _confirm(ami: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"cannot ask for confirmation (no terminal): pass --yes to retire {ami}",
            hint=f"builder ami retire {ami} --yes",
        )
    if input("remove these AMIs? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was removed", hint=f"builder ami show {ami}")


_ACTIONS: Mapping[str, Callable[[Context, SiteAccount, argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "copy": _copy,
    "share": _share,
    "deprecate": _deprecate,
    "publish": _publish,
    "retire": _retire,
}


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _regions(context: Context, site: SiteAccount) -> tuple[str, ...]:
    return tuple(dict.fromkeys((site.account.region, *context.site.aws.copy_regions)))


def _family(context: Context, site: SiteAccount, options: argparse.Namespace) -> list[Member]:
    """Return the AMI that IMAGE names, then its copies in all regions."""
    ami = _reference(context, options)
    members = family.family(site.account, ami, family.regions_of(site.account))
    if not members or members[0].ref.ami != ami:
        raise UsageError(f"no AMI {ami} in {site.account.region}", hint="builder ami list")
    return members


def _reference(context: Context, options: argparse.Namespace) -> str:
    """Return the ID of the AMI that IMAGE names."""
    name = str(options.image)
    if not name:
        raise UsageError(f"builder ami {options.action}: no IMAGE given", hint="builder ami list")
    if _AMI_ID.fullmatch(name):
        return name
    receipt = (
        receipts.read(Path(name)) if name.endswith(".json") else receipts.newest(context.workspace.out, name)
    )
    reference = str(receipt["artifact"]["reference"]) if receipt else ""
    if not _AMI_ID.fullmatch(reference):
        raise UsageError(f"no AMI receipt '{name}'", hint=f"IMAGE: {_IMAGE_HELP}; builder ami list")
    return reference
