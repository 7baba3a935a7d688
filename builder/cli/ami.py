"""`builder ami`: manages built AMIs in an AWS account or in a rehearsal."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder import forms
from builder.adapters.ami import family, steps
from builder.adapters.ami.family import Member
from builder.adapters.ami.publisher import LATEST
from builder.adapters.ami.steps import Sharing
from builder.adapters.host import receipts
from builder.adapters.host.workspace import open_run
from builder.app.account import SiteAccount
from builder.app.actions import Action, run_action
from builder.app.context import (
    Context,
    add_json,
    add_site_name,
    open_context,
    parser,
    print_facts,
    print_json,
    print_table,
)
from builder.app.interrupts import interruptible
from builder.app.lanes.ami import open_publisher
from builder.errors import MissingError, UsageError, with_result
from builder.lock import ACCOUNT
from builder.marks import KEY_TAG, RUN_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG
from builder.patterns import name_problem

_AMI_ID = re.compile(r"ami-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_MOST_DAYS = 3650  # EC2 accepts deprecation dates of the next ten years
_IMAGE_HELP = "AMI ID in the site's region, target (means its newest receipt), or path of a receipt"
_NOT_RUNNING = "the rehearsal of an AWS account is not running"
_Run = Callable[[Context, SiteAccount, argparse.Namespace], int]


def run(argv: Sequence[str]) -> int:
    return run_action(
        "ami", "Manage built AMIs, in an AWS account or in the rehearsal on this machine.", ACTIONS, argv
    )


def _action(
    name: str, summary: str, run: _Run, *arguments: Callable[[argparse.ArgumentParser], object]
) -> Action:
    """Return an action of `builder ami`; the functions `arguments` add its options to a parser."""

    def options() -> argparse.ArgumentParser:
        found = parser(f"ami {name}", f"{summary[0].upper()}{summary[1:]}.")
        for add in arguments:
            add(found)
        add_json(found)
        add_site_name(found)
        return found

    def run_in_site(parsed: argparse.Namespace) -> int:
        context = open_context(parsed)
        with interruptible():
            return run(context, SiteAccount(context), parsed)

    return Action(summary, options, run_in_site)


def _add_image(options: argparse.ArgumentParser) -> None:
    options.add_argument("image", metavar="AMI", help=_IMAGE_HELP)


def _add_regions(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--region",
        action="append",
        required=True,
        metavar="REGION",
        help="region to copy to; may be repeated",
    )


def _add_accounts(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--account", action="append", default=[], metavar="NUMBER", help="AWS account number; may be repeated"
    )
    options.add_argument(
        "--organization",
        action="append",
        default=[],
        metavar="ARN",
        help="ARN of an organization or organizational unit; may be repeated",
    )


def _add_days(options: argparse.ArgumentParser) -> None:
    options.add_argument("--after", type=int, required=True, metavar="DAYS", help="days from today")


def _add_consent(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--force", action="store_true", help="even if a 'latest' parameter points to the AMI"
    )
    options.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _add_force(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--force", action="store_true", help="even if a 'latest' parameter points to a newer AMI"
    )


def _list(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    account = site.running()
    members = family.all_of(account, _regions(context, site)) if account else []
    names = family.pointers(members, context.site.aws.parameters)
    rows = [_row(member, names.get(member.ref, [])) for member in members]
    if options.json:
        print_json(options, rows)
    elif rows:
        print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    elif account:
        print("no AMIs were built in this account", file=sys.stderr)
    else:
        print(f"{_NOT_RUNNING}, so there are no AMIs", file=sys.stderr)
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
        print_json(options, tables)
        return 0
    for table in tables:
        print_facts([(name.replace("_", " "), _text(value)) for name, value in table.items()])
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
            hint=f"pass --region with a region other than {home.ref.region}",
        )
    unknown = sorted(set(wanted) - set(family.regions_of(site.account)))
    if unknown:
        raise UsageError(
            f"--region {unknown[0]}: the account has no such region", hint="builder ami copy --help"
        )
    with open_run(context.workspace, "copy") as run:
        publisher = open_publisher(site, run.cancelled, run=run, say=_say)
        tags = steps.own_tags(home.image)
        publisher.finish(home.ref, tags)
        copies = (str(publisher.copy(home.ref, region, tags)) for region in wanted)
        return _print_each(options, copies)


def _share(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    sharing = Sharing(accounts=tuple(options.account), organizations=tuple(options.organization))
    if not sharing:
        raise UsageError(
            "builder ami share: no account given", hint="pass --account NUMBER or --organization ARN"
        )
    for option, form, values in (
        ("--account", forms.ACCOUNT, sharing.accounts),
        ("--organization", forms.ORGANIZATION, sharing.organizations),
    ):
        for value in values:
            if not form.fits(value):
                raise UsageError(f"{option} {value}: must be {form.words}", hint="builder ami share --help")
    return _each(context, site, options, lambda member: steps.share(member.ref, sharing))


def _deprecate(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    if not 1 <= options.after <= _MOST_DAYS:
        raise UsageError(
            f"--after {options.after}: must be 1 to {_MOST_DAYS} days", hint="builder ami deprecate --help"
        )
    return _each(
        context,
        site,
        options,
        lambda member: steps.deprecate(member.ref, after_days=options.after, again=True),
    )


def _each(
    context: Context, site: SiteAccount, options: argparse.Namespace, act: Callable[[Member], None]
) -> int:
    def names() -> Iterator[str]:
        for member in _family(context, site, options):
            act(member)
            yield str(member.ref)

    return _print_each(options, names())


def _print_each(options: argparse.Namespace, names: Iterable[str]) -> int:
    """Print each name when its operation is done; with --json, print all names at the end."""
    done: list[str] = []
    with with_result(done):
        for name in names:
            done.append(name)
            if not options.json:
                print(name)
    if options.json:
        print_json(options, done)
    return 0


def _publish(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    home = _family(context, site, options)[0]
    missing = sorted({TARGET_TAG, KEY_TAG, STACK_TAG, SYSTEM_TAG} - set(home.tags))
    if missing:
        raise UsageError(
            f"{home.ref} was not built by `builder`: it has no tag {missing[0]}",
            hint="builder build TARGET --publish",
        )
    known = {**receipts.system_tags(_checked_receipt(context, home)), **home.tags}
    with open_run(context.workspace, "publish") as run:
        publisher = open_publisher(site, run.cancelled, run=run, say=_say, force=options.force)
        publication = publisher.publish_image(
            home.ref.ami, {name: value for name, value in known.items() if name != RUN_TAG}
        )
    return _print_each(options, publication.tags)


def _checked_receipt(context: Context, home: Member) -> dict[str, Any]:
    """Return the receipt of an AMI; raise an error if it is missing or the checks have not passed."""
    receipt = receipts.of_reference(context.workspace.out, home.ref.ami)
    if receipt is None:
        raise UsageError(
            f"{home.ref} has no receipt on this machine, so its check results are unknown",
            hint=f"builder build {home.tags[TARGET_TAG]} --publish",
        )
    checks = (receipt.get("report") or {}).get("checks", ())
    outcomes = {check["outcome"] for check in checks}
    if "passed" not in outcomes or "failed" in outcomes:
        raise UsageError(
            f"{home.ref} has not passed its checks",
            hint=f"builder build {home.tags[TARGET_TAG]} --publish",
        )
    return receipt


def _retire(context: Context, site: SiteAccount, options: argparse.Namespace) -> int:
    ami = _reference(context, options)
    _require_running(site)
    regions = family.regions_of(site.account)
    members = family.family(site.account, ami, regions)
    family.require_built(members)
    print("\n".join(f"will be removed: {member.ref}" for member in members), file=sys.stderr)
    if not options.yes:
        _confirm(ami)
    removed: list[str] = []
    with with_result(removed):
        family.retire(
            site.account,
            ami,
            regions,
            prefix=context.site.aws.parameters,
            force=options.force,
            say=removed.append if options.json else print,
        )
    if options.json:
        print_json(options, removed)
    return 0


def _confirm(ami: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"cannot ask for confirmation (no terminal): pass --yes to retire {ami}",
            hint=f"builder ami retire {ami} --yes",
        )
    if input("remove these AMIs? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was removed", hint=f"builder ami show {ami}")


ACTIONS: Mapping[str, Action] = {
    "list": _action("list", "list the AMIs of the factory in the site's regions", _list),
    "show": _action("show", "show an AMI and its copies", _show, _add_image),
    "copy": _action(
        "copy", "copy an AMI to other regions; sets no parameters", _copy, _add_image, _add_regions
    ),
    "share": _action(
        "share",
        "share an AMI and its copies with accounts or organizations",
        _share,
        _add_image,
        _add_accounts,
    ),
    "deprecate": _action(
        "deprecate", "set the deprecation date of an AMI and its copies", _deprecate, _add_image, _add_days
    ),
    "publish": _action(
        "publish", "publish an AMI whose checks passed, as site.toml says", _publish, _add_image, _add_force
    ),
    "retire": _action(
        "retire", "delete an AMI, its copies, snapshots and parameters", _retire, _add_image, _add_consent
    ),
}


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _regions(context: Context, site: SiteAccount) -> tuple[str, ...]:
    return tuple(dict.fromkeys((site.account.region, *context.site.aws.copy_regions)))


def _family(context: Context, site: SiteAccount, options: argparse.Namespace) -> list[Member]:
    """Return the AMI that the argument AMI names, then its copies in all regions."""
    ami = _reference(context, options)
    _require_running(site)
    members = family.family(site.account, ami, family.regions_of(site.account))
    if not members or members[0].ref.ami != ami:
        raise UsageError(f"no AMI {ami} in {site.account.region}", hint="builder ami list")
    return members


def _require_running(site: SiteAccount) -> None:
    """Raise MissingError if the site is a rehearsal that is not running and therefore has no AMIs."""
    if site.running() is None:
        raise MissingError(
            _NOT_RUNNING, hint=f"builder rehearse up; or name your account with --site {ACCOUNT}"
        )


def _reference(context: Context, options: argparse.Namespace) -> str:
    """Return the ID of the AMI that the argument AMI names."""
    name = str(options.image)
    if _AMI_ID.fullmatch(name):
        return name
    name = context.catalog.aliases.get(name, name)
    if name.startswith("ami-") and name not in context.catalog.targets:
        raise UsageError(
            f"'{name}' is neither a target nor an AMI ID: ami- and 8 or 17 hexadecimal digits",
            hint="builder ami list",
        )
    receipt = None
    if name.endswith(".json"):
        receipt = receipts.read(Path(name))
    elif not name_problem("targets", name):
        receipt = receipts.newest(context.workspace.out, name)
    reference = str(receipt["artifact"]["reference"]) if receipt else ""
    if not _AMI_ID.fullmatch(reference):
        raise UsageError(f"no AMI receipt '{name}'", hint=f"builder ami list; AMI is an {_IMAGE_HELP}")
    return reference
