"""`builder registry`: the registry on this machine, for sites that configure no other registry."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from builder.adapters.registry import local
from builder.app.actions import Action, run_action
from builder.app.context import add_json, open_context, parser, print_json
from builder.errors import MissingError


def run(argv: Sequence[str]) -> int:
    return run_action(
        "registry", "Run a registry on this machine. It listens on loopback only.", ACTIONS, argv
    )


def _up(parsed: argparse.Namespace) -> int:
    workspace = open_context(parsed).workspace
    local.ensure_up(workspace)
    return _print(parsed, local.of(workspace))


def _down(parsed: argparse.Namespace) -> int:
    stopped = local.stop(open_context(parsed).workspace)
    print("stopped" if stopped else "was not running", file=sys.stderr)
    if parsed.json:
        print_json(parsed, {"address": None, "login": None})
    return 0


def _status(parsed: argparse.Namespace) -> int:
    return _print(parsed, local.of(open_context(parsed).workspace))


def _print(parsed: argparse.Namespace, registry: local.DockerRegistry) -> int:
    address = registry.find() or None
    code = 0 if address else MissingError.exit_code
    if parsed.json:
        login = registry.login_command if address else None
        print_json(parsed, {"address": address, "login": login}, exit_code=code)
        return code
    print(address or "not running")
    if address:
        print(f"to pull with the engine's client: {registry.login_command}", file=sys.stderr)
    return code


def _options(action: str, description: str) -> argparse.ArgumentParser:
    found = parser(f"registry {action}", description)
    add_json(found)
    return found


ACTIONS: Mapping[str, Action] = {
    "up": Action(
        "start the registry", partial(_options, "up", "Start the registry. Prints its address."), _up
    ),
    "down": Action("stop the registry", partial(_options, "down", "Stop the registry."), _down),
    "status": Action(
        "print the address of the registry",
        partial(_options, "status", "Print the address of the registry, if it runs."),
        _status,
    ),
}
