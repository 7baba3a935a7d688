"""Starts the rehearsal that the site `local` needs: an AWS account on this machine."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence

from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import open_run
from builder.adapters.upstream import mirror
from builder.app.context import Context
from builder.arch import of_this_machine
from builder.errors import MissingError, UsageError
from builder.model import Stack
from builder.rehearsal import session
from builder.rehearsal.ec2 import seeds
from builder.rehearsal.ec2.machine import ensure
from builder.rehearsal.gate import SERVICES
from builder.rehearsal.rules import NEW_ACCOUNT, Rules
from builder.rehearsal.session import Rehearsal

DEFAULT = "default"


def ensure_up(
    context: Context, name: str = DEFAULT, *, services: Sequence[str] = (), rules: Rules = NEW_ACCOUNT
) -> Rehearsal:
    """Return the named rehearsal with `services` and the default services; start it if it does not run.

    If `rules` differs from the default, it also replaces the account rules of a running rehearsal.
    """
    if running := session.find(context.workspace, name):
        if missing := sorted(set(services) - set(running.services)):
            raise UsageError(
                f"the rehearsal '{name}' is running without the services {', '.join(missing)}",
                hint=f"builder rehearse down --name {name}, then run the command again",
            )
        if rules != NEW_ACCOUNT:
            running.set_rules(rules)
        return running
    engine = Engine()
    _require_moto()
    require_local(engine)
    for dead in session.sweep_dead(context.workspace, engine_url=engine.url):
        print(f"rehearsal '{dead}' was killed: removed its leftovers", file=sys.stderr)
    account = seeds.load(context.root, context.catalog, arch=of_this_machine())
    return session.up(
        context.workspace,
        name,
        engine_url=engine.url,
        account=account.as_table(),
        machines=_ensure_machines(context, account.systems, engine),
        services=tuple(sorted({*SERVICES, *services})),
        rules=rules,
    )


def _require_moto() -> None:
    if importlib.util.find_spec("moto") is None:
        raise MissingError(
            "a rehearsal needs moto, which is not installed", hint="pip install 'image-factory[rehearsal]'"
        )


def require_local(engine: Engine) -> None:
    """Raise MissingError if the engine is on another host: its containers cannot be reached from here."""
    if not engine.url.startswith("unix://"):
        raise MissingError(
            f"a rehearsal needs a container engine on this host, not {engine.url}",
            hint="unset DOCKER_HOST, or run the command on the engine's host",
        )


def _ensure_machines(context: Context, systems: Sequence[str], engine: Engine) -> Mapping[str, str]:
    """Return the machine image of each operating system; building a missing image takes a minute."""
    images = {}
    with open_run(context.workspace, "rehearse") as run:
        for name in systems:
            system = context.catalog.systems[name]
            packages = mirror.discover(context.site.mirror, system, Stack(name="", summary="", pins={}))
            images[name] = ensure(engine, run, system, packages, lambda line: print(line, file=sys.stderr))
    return images
