"""`builder rehearse`: emulates an AWS account on this machine; its instances are containers."""

import json
import re
import shlex
import sys
from collections.abc import Sequence

from builder.adapters.engine.client import Engine
from builder.app.context import Context, open_context, parser, print_table
from builder.app.rehearsal import DEFAULT, ensure_up
from builder.errors import MissingError, UsageError
from builder.rehearsal import session
from builder.rehearsal.session import Rehearsal

_ACTIONS = ("up", "down", "status", "env")
_SERVICE = re.compile(r"[a-z][a-z0-9-]*")


def run(argv: Sequence[str]) -> int:
    options = parser(
        "rehearse", "Emulate EC2, ECR and Systems Manager on this machine, to rehearse AMI builds."
    )
    options.add_argument("action", choices=_ACTIONS, help="env: print export lines for a shell's eval")
    options.add_argument(
        "--name",
        default=DEFAULT,
        help="name of the rehearsal; several can run at once (default: %(default)s)",
    )
    options.add_argument(
        "--pending",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="up: time that new AMIs stay pending (default: 0)",
    )
    options.add_argument(
        "--services",
        default="",
        metavar="NAME,…",
        help="up: further AWS services to serve, such as s3,batch; calls that start containers stay refused",
    )
    options.add_argument("--json", action="store_true", help="status: print JSON")
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    if parsed.action == "up":
        services = _services(parsed.services)
        _describe(ensure_up(context, parsed.name, services=services, pending_s=parsed.pending))
        return 0
    if parsed.action == "down":
        return _down(context, parsed.name)
    found = session.find(context.workspace, parsed.name)
    if parsed.action == "env":
        return _print_environment(found)
    return _status(parsed.name, found, as_json=parsed.json)


def _services(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not _SERVICE.fullmatch(name):
            raise UsageError(
                f"--services: {name!r} is not the name of an AWS service",
                hint="use the names in signatures, for example --services s3,batch",
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


def _down(context: Context, name: str) -> int:
    if not session.down(context.workspace, name, engine_url=Engine().url):
        print(f"rehearsal '{name}' was not running", file=sys.stderr)
    else:
        print(
            f"rehearsal '{name}' stopped; its instances, images and parameters are deleted", file=sys.stderr
        )
    return 0


def _print_environment(found: Rehearsal | None) -> int:
    if found is None:
        raise MissingError("no rehearsal is running", hint="builder rehearse up")
    scratch = found.folder / "shell"
    for name, value in sorted(found.fence(scratch, inherited={}).environment.items()):
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _status(name: str, found: Rehearsal | None, *, as_json: bool) -> int:
    if found is None:
        print(json.dumps(None) if as_json else "not running")
        return 3
    has, calls = found.status(), found.calls()
    if as_json:
        facts = {"endpoint": found.endpoint, "registries": dict(found.registries), "calls": len(calls)}
        print(json.dumps({"name": name, **facts, **has}, indent=2))
        return 0
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
