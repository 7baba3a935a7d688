"""`builder role COMPONENT`: applies roles to a fresh machine and checks them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.app import role_docs, scenario
from builder.app.context import open_context, parser
from builder.app.role import try_roles
from builder.app.role_plan import RoleRequest, role_plan
from builder.errors import UsageError
from builder.model import KINDS, Value
from builder.pipeline import require_locked


def run(argv: Sequence[str]) -> int:
    parsed = _parse(argv)
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
    require_locked([plan])
    checks = try_roles(
        context, plan, image=parsed.image, twice=parsed.twice, checks=not parsed.no_checks, keep=parsed.keep
    )
    for check in checks:
        if check.outcome == "skipped":
            print(f"skipped {check.name}: {check.message}", file=sys.stderr)
    print(" ".join(plan.components))
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    options = parser(
        "role",
        "Apply components and all that they require to a fresh machine, then check them."
        " Prints the applied components on stdout.",
    )
    options.add_argument("components", nargs="*", metavar="COMPONENT", help="a file of catalog/components")
    options.add_argument(
        "--twice", action="store_true", help="apply a second time; fail if that changes anything"
    )
    options.add_argument(
        "--kind",
        choices=KINDS,
        default="ami",
        help="ami (default): apply to a machine; container: to a build container",
    )
    options.add_argument(
        "--system", metavar="NAME", help="default: the first that can be built on this machine"
    )
    options.add_argument(
        "--stack", metavar="NAME", help="default: the largest that targets use with that system"
    )
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="VARIABLE=VALUE",
        help="set a role variable, to JSON or text; may be repeated",
    )
    options.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="COMPONENT=VERSION",
        help="override a version of the stack; may be repeated",
    )
    options.add_argument("--image", default="", metavar="REF", help="start from an image in the engine")
    options.add_argument("--no-checks", action="store_true", help="apply only")
    options.add_argument("--keep", action="store_true", help="keep the container afterwards")
    options.add_argument("--write-docs", action="store_true", help="regenerate docs/reference/roles.md")
    molecule = options.add_argument_group("for molecule; FOLDER holds the state of a scenario")
    molecule.add_argument("--platform", type=Path, metavar="FILE", help="the scenario's molecule.yml")
    molecule.add_argument("--start", type=Path, metavar="FOLDER", help="start the machine and keep it")
    molecule.add_argument("--verify", type=Path, metavar="FOLDER", help="run the checks on the machine")
    molecule.add_argument("--stop", type=Path, metavar="FOLDER", help="remove the machine")
    molecule.add_argument("--hold", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    return options.parse_args(argv)


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
