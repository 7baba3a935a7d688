"""`builder role COMPONENT`: applies roles to a fresh machine and checks them."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.app import role_docs, scenario
from builder.app.context import add_json, open_context, parser, print_json
from builder.app.role import try_roles
from builder.app.role_plan import RoleRequest, role_plan
from builder.errors import UsageError
from builder.model import KINDS, Value
from builder.pipeline import require_locked


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    alone = [name for name in ("write_docs", "start", "verify", "stop", "hold") if getattr(parsed, name)]
    if alone and (parsed.components or parsed.json):
        option = f"--{alone[0].replace('_', '-')}"
        raise UsageError(
            f"builder role: {option} is not allowed with COMPONENT or --json", hint="builder role --help"
        )
    if parsed.stop:
        scenario.stop(parsed.stop)
        return 0
    context = open_context(parsed)
    if parsed.write_docs:
        print(role_docs.write(context))
        return 0
    if parsed.start or parsed.hold or parsed.verify:
        return _run_scenario(parsed)
    if not parsed.components:
        raise UsageError("builder role: no component given", hint="ls catalog/components")

    request = RoleRequest(
        components=parsed.components,
        kind=parsed.kind,
        system=parsed.system or "",
        stack=parsed.stack or "",
        pins=dict(_pair(item, "--pin") for item in parsed.pin),
        variables=dict(_variable(item) for item in parsed.set),
    )
    plan = role_plan(context, request)
    require_locked([plan], hint="builder lock")
    checks = try_roles(
        context, plan, image=parsed.image, twice=parsed.twice, checks=not parsed.no_checks, keep=parsed.keep
    )
    if parsed.json:
        found = [dataclasses.asdict(check) for check in checks]
        print_json(parsed, {"components": list(plan.components), "checks": found})
        return 0
    for check in checks:
        if check.outcome == "skipped":
            print(f"skipped {check.name}: {check.message}", file=sys.stderr)
    print(" ".join(plan.components))
    return 0


def options() -> argparse.ArgumentParser:
    found = parser(
        "role",
        "Apply components and all that they require to a fresh machine, then check them."
        " Prints the applied components on stdout.",
    )
    found.add_argument("components", nargs="*", metavar="COMPONENT", help="named as in catalog/components")
    found.add_argument(
        "--twice", action="store_true", help="apply a second time; fail if that changes anything"
    )
    found.add_argument(
        "--kind",
        choices=KINDS,
        default="ami",
        help="ami (default): apply to a machine; container: to a build container",
    )
    found.add_argument(
        "--system", metavar="SYSTEM", help="default: the first that can be built on this machine"
    )
    found.add_argument(
        "--stack", metavar="STACK", help="default: the largest that targets use with that system"
    )
    found.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="VARIABLE=VALUE",
        help="set a role variable, to JSON or text; may be repeated",
    )
    found.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="COMPONENT=VERSION",
        help="override a version of the stack; may be repeated",
    )
    found.add_argument("--image", default="", metavar="IMAGE", help="start from an image in the engine")
    add_json(found)
    found.add_argument("--no-checks", action="store_true", help="apply only")
    found.add_argument("--keep", action="store_true", help="keep the container afterwards")
    only = found.add_mutually_exclusive_group()
    only.add_argument("--write-docs", action="store_true", help="regenerate docs/reference/roles.md")
    molecule = found.add_argument_group("for molecule; FOLDER holds the state of a scenario")
    molecule.add_argument("--platform", type=Path, metavar="FILE", help="the scenario's molecule.yml")
    for name, text in (
        ("--start", "start the machine and keep it"),
        ("--verify", "run the checks on the machine"),
        ("--stop", "remove the machine"),
        ("--hold", argparse.SUPPRESS),
    ):
        only.add_argument(name, type=Path, metavar="FOLDER", help=text)
    return found


def _run_scenario(parsed: argparse.Namespace) -> int:
    context = open_context(parsed)
    if parsed.platform is None:
        raise UsageError(
            "builder role: no platform given", hint="pass --platform FILE, the scenario's molecule.yml"
        )
    if parsed.start:
        scenario.start(parsed.start, parsed.platform, context.root)
    elif parsed.hold:
        scenario.hold(context, parsed.hold, parsed.platform)
    else:
        checks = scenario.verify(context, parsed.verify, parsed.platform)
        print(f"{len(checks)} checks, none failed")
    return 0


def _pair(item: str, option: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not name or not equals:
        raise UsageError(f"{option} {item}: must be NAME=VALUE", hint="builder role --help")
    return name, value


def _variable(item: str) -> tuple[str, Value]:
    name, text = _pair(item, "--set")
    try:
        value: Value = json.loads(text)
    except ValueError:
        value = text
    return name, value
