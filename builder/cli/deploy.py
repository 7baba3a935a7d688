"""`builder deploy`: creates, changes and deletes the CloudFormation stacks of `architectures/`."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from builder.adapters.aws import stacks
from builder.adapters.host.workspace import open_run
from builder.app.account import SiteAccount
from builder.app.actions import Action, run_action
from builder.app.architectures import Architecture, image_values, load, values_of
from builder.app.context import (
    Context,
    add_flavour,
    add_json,
    add_site_name,
    open_context,
    parser,
    print_json,
    print_table,
)
from builder.app.interrupts import interruptible
from builder.errors import UsageError
from builder.marks import ARCHITECTURE_TAG, RUN_TAG
from builder.plan import find_target
from builder.reading import shortened

_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
# AWS services that the templates need in a rehearsal, in addition to the services for AMI builds.
_SERVICES = ("batch", "cloudformation", "logs", "s3")
_Run = Callable[[Context, argparse.Namespace], int]


def run(argv: Sequence[str]) -> int:
    return run_action(
        "deploy",
        "Create, change and delete the CloudFormation stacks of architectures/, in an AWS account or in the"
        " rehearsal on this machine.",
        ACTIONS,
        argv,
    )


def _options(name: str, summary: str) -> argparse.ArgumentParser:
    found = parser(f"deploy {name}", f"{summary[0].upper()}{summary[1:]}.")
    found.add_argument("architecture", metavar="ARCHITECTURE", help="name of a folder in architectures/")
    add_json(found)
    return found


def _with_parameters(found: argparse.ArgumentParser) -> argparse.ArgumentParser:
    found.add_argument(
        "parameters",
        nargs="*",
        metavar="KEY=VALUE",
        help="parameters of the template (default: its defaults)",
    )
    return _with_stack(found)


def _with_stack(found: argparse.ArgumentParser) -> argparse.ArgumentParser:
    found.add_argument(
        "--stack",
        type=_stack_name,
        metavar="NEW",
        help="name of the stack (default: that of the architecture)",
    )
    add_site_name(found)
    return found


def _stack_name(text: str) -> str:
    if not _STACK_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "must be a letter and up to 127 letters of a-z and A-Z, digits and '-', not " + shortened(text)
        )
    return text


def _with_consent(found: argparse.ArgumentParser) -> argparse.ArgumentParser:
    found.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    return found


def _parameters_options() -> argparse.ArgumentParser:
    found = _options("parameters", _SUMMARIES["parameters"])
    found.add_argument("target", metavar="TARGET", help="target whose published AMI the nodes start from")
    add_flavour(found)
    add_site_name(found)
    return found


def _print_parameters(context: Context, parsed: argparse.Namespace) -> int:
    architecture = load(context.root, parsed.architecture)
    found = image_values(context, architecture, find_target(context.catalog, parsed.target))
    table = [{"ParameterKey": key, "ParameterValue": value} for key, value in found.items()]
    if parsed.json:
        print_json(parsed, table)
    else:
        print(json.dumps(table, indent=2))
    return 0


def _plan(context: Context, parsed: argparse.Namespace) -> int:
    architecture, account = load(context.root, parsed.architecture), _account(context)
    values = values_of(architecture, parsed.parameters)
    with open_run(context.workspace, "deploy") as run:
        proposed = _propose(account, architecture, values, parsed, run.name)
        stacks.discard(account.account, proposed)
    if parsed.json:
        print_json(parsed, _as_json(proposed))
    else:
        _show(proposed)
    return 0


def _apply(context: Context, parsed: argparse.Namespace) -> int:
    architecture, account = load(context.root, parsed.architecture), _account(context)
    values = values_of(architecture, parsed.parameters)
    with open_run(context.workspace, "deploy") as run:
        proposed = _propose(account, architecture, values, parsed, run.name)
        outputs: dict[str, str] = {}
        try:
            _show(proposed, stream_is_stderr=True)
            if proposed.changes and not parsed.yes:
                _confirm("make these changes", "apply", parsed)
        except BaseException:
            stacks.discard(account.account, proposed)
            raise
        if proposed.changes:
            outputs = stacks.execute(account.account, proposed)
        else:
            stacks.discard(account.account, proposed)
    if parsed.json:
        print_json(parsed, {**_as_json(proposed), "outputs": outputs})
    else:
        print("\n".join(f"{key}={value}" for key, value in outputs.items()))
    return 0


def _delete(context: Context, parsed: argparse.Namespace) -> int:
    architecture, account = load(context.root, parsed.architecture), _account(context)
    name = parsed.stack or architecture.name
    if account.running() is None or stacks.find(account.account, name) is None:
        region = context.site.aws.region
        raise UsageError(f"no stack '{name}' in {region}", hint=f"builder deploy plan {architecture.name}")
    if not parsed.yes:
        print(
            f"will be deleted: stack {name}, except for resources that its template retains", file=sys.stderr
        )
        _confirm("delete this stack", "delete", parsed)
    stacks.delete(account.account, name)
    if parsed.json:
        print_json(parsed, {"stack": name})
    else:
        print(f"deleted stack {name}", file=sys.stderr)
    return 0


def _account(context: Context) -> SiteAccount:
    return SiteAccount(context, services=_SERVICES)


def _propose(
    account: SiteAccount,
    architecture: Architecture,
    values: Mapping[str, str],
    parsed: argparse.Namespace,
    run: str,
) -> stacks.ChangeSet:
    tags = {ARCHITECTURE_TAG: architecture.name, RUN_TAG: run}
    name = parsed.stack or architecture.name
    return stacks.propose(account.account, name, architecture.text, values, tags, f"run-{run}")


def _as_json(proposed: stacks.ChangeSet) -> dict[str, object]:
    changes = [
        {"action": change.action, "name": change.name, "type": change.kind, "replacement": change.replacement}
        for change in proposed.changes
    ]
    return {"stack": proposed.stack, "changes": changes}


def _show(proposed: stacks.ChangeSet, *, stream_is_stderr: bool = False) -> None:
    rows = [(c.action.lower(), c.name, c.kind, c.replacement) for c in proposed.changes]
    if not rows:
        print(f"stack {proposed.stack}: no changes", file=sys.stderr)
    elif stream_is_stderr:
        print("\n".join("  ".join(filter(None, row)) for row in rows), file=sys.stderr)
    else:
        print_table(("change", "resource", "type", "replacement"), rows)


def _confirm(question: str, action: str, parsed: argparse.Namespace) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            "stdin is not a terminal; pass --yes to confirm",
            hint=f"builder deploy {action} {parsed.architecture} --yes",
        )
    if input(f"{question}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was changed", hint=f"builder deploy plan {parsed.architecture}")


_SUMMARIES = {
    "parameters": "print the parameters that name the published AMI of a target",
    "plan": "print the changes that a template would make to its stack",
    "apply": "show the changes, then make them; prints the outputs of the stack",
    "delete": "delete a stack",
}


def _action(name: str, options: Callable[[], argparse.ArgumentParser], run: _Run) -> Action:
    def run_in_site(parsed: argparse.Namespace) -> int:
        with interruptible():
            return run(open_context(parsed), parsed)

    return Action(_SUMMARIES[name], options, run_in_site)


ACTIONS: Mapping[str, Action] = {
    "parameters": _action("parameters", _parameters_options, _print_parameters),
    "plan": _action("plan", lambda: _with_parameters(_options("plan", _SUMMARIES["plan"])), _plan),
    "apply": _action(
        "apply", lambda: _with_consent(_with_parameters(_options("apply", _SUMMARIES["apply"]))), _apply
    ),
    "delete": _action(
        "delete", lambda: _with_consent(_with_stack(_options("delete", _SUMMARIES["delete"]))), _delete
    ),
}
