"""`builder rehearse`: emulates an AWS account on this machine; its instances are containers."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.adapters.engine.client import Engine
from builder.app.actions import Action, run_action
from builder.app.context import add_json, open_context, parser, print_json, print_table
from builder.app.rehearsal import DEFAULT, ensure_up
from builder.cli import rehearse_cluster
from builder.errors import MissingError, UsageError
from builder.reading import UnreadableError, parse, read_text
from builder.rehearsal import session
from builder.rehearsal.iam import Request, evaluate
from builder.rehearsal.rules import Rules
from builder.rehearsal.session import Rehearsal

_SERVICE = re.compile(r"[a-z][a-z0-9-]*")
_LONGEST_S = 3600.0


def run(argv: Sequence[str]) -> int:
    return run_action(
        "rehearse",
        "Emulate EC2, ECR and Systems Manager on this machine, to rehearse AMI builds, or a Slurm cluster.",
        ACTIONS,
        argv,
    )


def _options(action: str, description: str) -> argparse.ArgumentParser:
    found = parser(f"rehearse {action}", description)
    found.add_argument(
        "--name",
        default=DEFAULT,
        metavar="REHEARSAL",
        help="name of the rehearsal; several can run at once (default: %(default)s)",
    )
    add_json(found)
    return found


def _up_options() -> argparse.ArgumentParser:
    found = _options("up", "Start the rehearsal, unless it runs. Prints its endpoint.")
    found.add_argument(
        "--pending",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="time that new AMIs stay pending (default: 0)",
    )
    found.add_argument(
        "--services",
        default="",
        metavar="NAME,…",
        help="further AWS services to serve, such as s3,batch; calls that start containers stay refused",
    )
    found.add_argument(
        "--unlisted",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="time for which EC2 does not find new instances and AMIs (default: 0)",
    )
    found.add_argument(
        "--from",
        dest="origin",
        default="outside",
        choices=("outside", "inside"),
        help="outside (default): this host reaches public addresses only; inside: private addresses",
    )
    found.add_argument(
        "--enforce-tokens", action="store_true", help="start only instances whose metadata requires a token"
    )
    for option, what in (("--reservation", "capacity reservation"), ("--capacity-block", "capacity block")):
        found.add_argument(
            option, action="append", default=[], metavar="ID", help=f"have this active {what}; repeatable"
        )
    found.add_argument("--no-spot", action="store_true", help="have no capacity for spot instances")
    found.add_argument(
        "--deny-region",
        action="append",
        default=[],
        metavar="REGION",
        help="refuse all calls to a region, as a service control policy does; repeatable",
    )
    found.add_argument(
        "--policy", type=Path, metavar="FILE", help="refuse calls that this IAM policy does not allow"
    )
    return found


def _up(parsed: argparse.Namespace) -> int:
    services, rules = _services(parsed.services), _rules(parsed)
    found = ensure_up(open_context(parsed), parsed.name, services=services, rules=rules)
    if parsed.json:
        print_json(parsed, _as_json(found))
    else:
        _describe(found)
    return 0


def _rules(parsed: argparse.Namespace) -> Rules:
    for option in ("pending", "unlisted"):
        seconds = getattr(parsed, option)
        if not 0 <= seconds <= _LONGEST_S:
            raise UsageError(
                f"--{option} {seconds:g}: must be 0 to {_LONGEST_S:g} seconds",
                hint="builder rehearse up --help",
            )
    return Rules(
        pending_s=parsed.pending,
        unlisted_s=parsed.unlisted,
        enforces_tokens=parsed.enforce_tokens,
        is_inside=parsed.origin == "inside",
        has_spot=not parsed.no_spot,
        reservations=tuple(parsed.reservation),
        capacity_blocks=tuple(parsed.capacity_block),
        denied_regions=tuple(parsed.deny_region),
        policy=_policy(parsed.policy) if parsed.policy else None,
    )


def _policy(path: Path) -> Mapping[str, Any]:
    """Read the file with an IAM policy; raise UsageError if the rehearsal cannot evaluate the policy."""
    hint = f"builder iam TARGET > {path}"
    try:
        table = parse(read_text(path), json.loads)
        statements = table.get("Statement") if isinstance(table, dict) else None
        if not isinstance(statements, list) or not all(isinstance(found, dict) for found in statements):
            raise ValueError("Statement must be a list of JSON objects")
        evaluate([table], Request(action="sts:GetCallerIdentity"))
    except FileNotFoundError as error:
        raise MissingError(f"--policy: no file {path}", hint=hint) from error
    except UnreadableError as error:
        raise MissingError(f"--policy {path}: {error}", hint=f"ls -l {path}") from error
    except KeyError as error:
        raise UsageError(f"--policy {path}: is not an IAM policy: no key {error}", hint=hint) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"--policy {path}: is not an IAM policy: {error}", hint=hint) from error
    return {"Version": table.get("Version", "2012-10-17"), "Statement": statements}


def _services(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not _SERVICE.fullmatch(name):
            raise UsageError(
                f"--services: {name!r} is not the name of an AWS service",
                hint="use AWS signing names, for example --services s3,batch",
            )
    return names


def _describe(found: Rehearsal) -> None:
    """Print the rehearsal's endpoint on stdout; print its account, registries and commands on stderr."""
    print(found.endpoint)
    lines = [
        f"rehearsal '{found.name}': account {found.account}, regions {', '.join(found.regions)}",
        f"ECR at {', '.join(f'{host} ({region})' for region, host in found.registries.items())}",
        f"AMIs of {', '.join(found.starts) or 'no system'}; SSH to 127.0.0.0/8, port {found.ssh_port}",
        f'environment for other tools: eval "$(builder rehearse env{_name_option(found.name)})"',
        f"stop it with: builder rehearse down{_name_option(found.name)}",
    ]
    print("\n".join(lines), file=sys.stderr)


def _name_option(name: str) -> str:
    return "" if name == DEFAULT else f" --name {name}"


def _down(parsed: argparse.Namespace) -> int:
    workspace, name = open_context(parsed).workspace, parsed.name
    if not session.down(workspace, name, engine_url=Engine().url):
        print(f"rehearsal '{name}' was not running", file=sys.stderr)
    else:
        print(
            f"rehearsal '{name}' stopped; its instances, images and parameters are deleted", file=sys.stderr
        )
    if parsed.json:
        print_json(parsed, {"name": name, "running": False})
    return 0


def _print_environment(parsed: argparse.Namespace) -> int:
    found = session.find(open_context(parsed).workspace, parsed.name)
    if found is None:
        raise MissingError(
            f"rehearsal '{parsed.name}' is not running",
            hint=f"builder rehearse up{_name_option(parsed.name)}",
        )
    scratch = found.folder / "shell"
    environment = dict(sorted(found.fence(scratch, inherited={}).environment.items()))
    if parsed.json:
        print_json(parsed, environment)
        return 0
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _as_json(found: Rehearsal) -> dict[str, object]:
    facts = {"endpoint": found.endpoint, "registries": dict(found.registries), "calls": len(found.calls())}
    return {"name": found.name, "running": True, **facts, **found.status()}


def _status(parsed: argparse.Namespace) -> int:
    found = session.find(open_context(parsed).workspace, parsed.name)
    if parsed.json:
        code = 0 if found else MissingError.exit_code
        table = _as_json(found) if found else {"name": parsed.name, "running": False}
        print_json(parsed, table, exit_code=code)
        return code
    if found is None:
        print("not running")
        return MissingError.exit_code
    has, calls = found.status(), found.calls()
    _describe(found)
    changing = sum(call.mutating for call in calls)
    print(f"{len(calls)} calls so far, {changing} of them changed resources: {found.folder / 'calls.ndjson'}")
    rows = [
        (
            kind.removesuffix("s"),
            row["id"],
            row["region"],
            row["state"],
            row.get("address") or row.get("name", ""),
        )
        for kind, entries in has.items()
        for row in entries
    ]
    if rows:
        print_table(("kind", "id", "region", "state", "address or name"), rows)
    return 0


ACTIONS: Mapping[str, Action] = {
    "up": Action("start the rehearsal", _up_options, _up),
    "down": Action(
        "stop the rehearsal; delete its instances, images and parameters",
        lambda: _options("down", "Stop the rehearsal; delete its instances, images and parameters."),
        _down,
    ),
    "status": Action(
        "show its instances, images and parameters",
        lambda: _options("status", "Show the instances, images and parameters of the rehearsal."),
        _status,
    ),
    "env": Action(
        "print export lines for a shell's eval",
        lambda: _options("env", "Print export lines, so that other tools use the rehearsal."),
        _print_environment,
    ),
    **rehearse_cluster.ACTIONS,
}
