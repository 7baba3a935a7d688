"""`builder init`: writes the files of a new target, component or stack, or the site file."""

import argparse
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from builder import site
from builder.app import initial, initial_site, role_docs
from builder.app.actions import Action, run_action
from builder.app.context import Context, add_json, open_context, parser, print_json
from builder.app.interrupts import interruptible
from builder.app.locking import Request, update_lock
from builder.model import KINDS


def run(argv: Sequence[str]) -> int:
    return run_action(
        "init",
        "Write all files of a new target, component or stack, which pass `make unit` as they are, or the site"
        " file. Existing files are never overwritten.",
        ACTIONS,
        argv,
    )


def _options(action: str, description: str) -> argparse.ArgumentParser:
    found = parser(f"init {action}", description)
    found.add_argument("name", metavar="NEW", help=f"name of the new {action}")
    add_json(found)
    return found


def _target_options() -> argparse.ArgumentParser:
    found = _options(
        "target",
        "Write a target like the first one of its kind that this machine can build, its workload, its lock"
        " entry and its golden plan.",
    )
    found.add_argument(
        "--kind",
        choices=sorted(KINDS, reverse=True),
        default="container",
        help="container (default): an image with a program; ami: a machine image",
    )
    return found


def _stack_options() -> argparse.ArgumentParser:
    found = _options("stack", "Write a stack whose versions are those of another one until you change them.")
    found.add_argument(
        "--from",
        dest="base",
        required=True,
        metavar="STACK",
        help="the base of the new stack; -: read the output of `builder stack solve --toml`",
    )
    return found


def _site_options() -> argparse.ArgumentParser:
    found = parser(
        "init site",
        "Write site.toml with a comment on every setting. Asks for the settings of the first build, except"
        " for those that an option answers; without a terminal it asks nothing.",
    )
    for question in initial_site.QUESTIONS:
        found.add_argument(f"--{question.option}", metavar=question.metavar, help=question.text)
    add_json(found)
    return found


def _site(parsed: argparse.Namespace) -> int:
    context = open_context(parsed)
    path = site.path_of(context.root)
    given = {
        question.key: initial_site.parse_answer(question.key, text)
        for question in initial_site.QUESTIONS
        if (text := getattr(parsed, question.option.replace("-", "_")))
    }
    left = [question for question in initial_site.QUESTIONS if question.key not in given]
    if sys.stdin.isatty() and not os.path.lexists(path):
        given |= initial_site.ask(left, input, lambda text: print(text, file=sys.stderr))
    initial_site.write(path, given)
    return _print(parsed, context, [path], "builder doctor --site aws")


def _target(parsed: argparse.Namespace) -> int:
    context = open_context(parsed)
    written = initial.write(context, initial.target_files(context, parsed.name, parsed.kind))
    after = open_context(parsed)
    with interruptible():
        request, cancelled = Request(targets=(parsed.name,)), threading.Event()
        golden = update_lock(after, request, each=map, cancelled=cancelled).golden
    return _print(parsed, after, [*written, *golden], f"builder build {parsed.name}")


def _component(parsed: argparse.Namespace) -> int:
    context = open_context(parsed)
    written = initial.write(context, initial.component_files(context, parsed.name))
    after = open_context(parsed)
    if (after.root / role_docs.PAGE).is_file():
        role_docs.write(after)
    return _print(parsed, after, written, f"builder role {parsed.name} --twice")


def _stack(parsed: argparse.Namespace) -> int:
    context = open_context(parsed)
    solved = sys.stdin.read() if parsed.base == "-" else ""
    written = initial.write(context, initial.stack_files(context, parsed.name, parsed.base, solved))
    return _print(parsed, context, written, f"builder stack check {parsed.name}")


def _print(parsed: argparse.Namespace, context: Context, written: Sequence[Path], command: str) -> int:
    files = [
        str(path.relative_to(context.root) if path.is_relative_to(context.root) else path) for path in written
    ]
    if parsed.json:
        print_json(parsed, {"files": files, "next": command})
        return 0
    print("\n".join(files))
    print(f"next: {command}", file=sys.stderr)
    return 0


ACTIONS: Mapping[str, Action] = {
    "target": Action("write a target and its workload", _target_options, _target),
    "component": Action(
        "write a component, its role and its checks",
        partial(_options, "component", "Write a component, its role, its checks and its test scenario."),
        _component,
    ),
    "stack": Action("write a stack on a base", _stack_options, _stack),
    "site": Action("write the site file, asking for its settings", _site_options, _site),
}
