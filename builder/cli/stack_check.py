"""`builder stack check`: whether versions fit, of a stack, an image, this machine, or of what was said alone.

Exit code 2 if an error-level rule fires. What is not known is said and never taken for true.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.adapters.engine.client import Engine
from builder.adapters.host import survey
from builder.app.context import open_context, parser
from builder.cli.stack import find_stack
from builder.errors import UsageError
from builder.screen.text import Look, look, wrap
from builder.stack.checking import Result, check
from builder.stack.knowledge import Knowledge
from builder.stack.loading import load
from builder.stack.rules import Change, Finding
from builder.stack.solving.nearest import nearest, words
from builder.stack.vocabulary import Value, read_value, write_value
from builder.tables import did_you_mean

_SYMBOLS = {"error": "failed", "warning": "skipped", "setting": "built", "note": "present"}
_STYLES = {"error": "bad", "warning": "warn", "setting": "work", "note": "dim"}
_NAMED_UNKNOWN = 8  # unknown facts that are named in text; --json has all


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing to judge: what it is called, what is stated about it, what could not be read."""

    name: str
    stated: Mapping[str, Value]
    unread: tuple[str, ...] = ()


def run(argv: Sequence[str]) -> int:
    options = _options()
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    knowledge = load(context.root)
    if parsed.instance and parsed.instance not in knowledge.instances:
        raise UsageError(
            f"--instance: no type '{parsed.instance}'{did_you_mean(parsed.instance, knowledge.instances)}",
            hint="catalog/instances.toml lists the types that are known",
        )
    said = _said(knowledge, parsed.set)
    judged = [(one, check(knowledge, one.stated)) for one in _subjects(knowledge, parsed, said)]
    if parsed.json:
        print(json.dumps([_json(knowledge, one, result) for one, result in judged], indent=2))
    else:
        style = look(sys.stdout, os.environ)
        print("\n\n".join(_text(knowledge, one, result, style) for one, result in judged))
    return 2 if any(result.errors for _, result in judged) else 0


def _options() -> argparse.ArgumentParser:
    options = parser(
        "stack check",
        "Whether versions fit. Without STACK, --image, --host or --set: every stack for its machine types.",
    )
    options.add_argument("stack", nargs="?", metavar="STACK")
    options.add_argument("--instance", metavar="TYPE", help="EC2 type, as in p5.48xlarge")
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FACT=VALUE",
        help="state a fact, or overrule what was read; may be repeated",
    )
    options.add_argument("--image", metavar="REF", help="an image in this machine's engine")
    options.add_argument("--host", action="store_true", help="this machine")
    options.add_argument("--json", action="store_true", help="as JSON")
    return options


def _said(knowledge: Knowledge, settings: Iterable[str]) -> dict[str, Value]:
    said: dict[str, Value] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write FACT=VALUE", hint="builder stack check --help")
        try:
            fact = knowledge.vocabulary.fact(name)
            said[fact.name] = read_value(fact, text)
        except ValueError as error:
            raise UsageError(
                f"--set {setting}: {error}", hint="catalog/facts.toml and catalog/versions/ list all facts"
            ) from error
    return said


def _subjects(
    knowledge: Knowledge, parsed: argparse.Namespace, said: Mapping[str, Value]
) -> Iterable[Subject]:
    machine: dict[str, Value] = {"instance": parsed.instance} if parsed.instance else {}
    if parsed.image or parsed.host:
        if parsed.stack:
            raise UsageError("builder stack check: a stack, or something that exists", hint="leave out STACK")
        yield _survey(knowledge, parsed, {**machine, **said})
    elif parsed.stack or not (said or machine):
        for name in [find_stack(knowledge, parsed.stack).name] if parsed.stack else knowledge.stacks:
            types = [parsed.instance] if parsed.instance else knowledge.stacks[name].instances
            for instance in types or [""]:
                on: dict[str, Value] = {"instance": instance} if instance else {}
                title = f"{name} on {instance}" if instance else name
                yield Subject(name=title, stated={**knowledge.stack_facts(name), **on, **said})
    else:
        stated = {**machine, **said}
        title = ", ".join(f"{name} {write_value(value)}" for name, value in stated.items())
        yield Subject(name=title, stated=stated)


def _survey(knowledge: Knowledge, parsed: argparse.Namespace, said: Mapping[str, Value]) -> Subject:
    """An image says what is in it and the host what is below it; asked together they are one combination."""
    names, facts, unread = [], dict[str, Value](), list[str]()
    if parsed.host:
        found = survey.of_host(knowledge.vocabulary)
        # Beside an image, this machine is the host and nothing else.
        sides = ("machine", "host") if parsed.image else ("machine", "host", "image")
        facts |= knowledge.vocabulary.on(found.facts, sides)
        names, unread = ["this machine"], list(found.unread)
    if parsed.image:
        found = survey.of_image(Engine(), parsed.image, knowledge.vocabulary)
        facts |= knowledge.vocabulary.on(found.facts, ("image",))
        names, unread = [parsed.image, *names], [*unread, *found.unread]
    return Subject(name=" on ".join(names), stated={**facts, **said}, unread=tuple(unread))


def _text(knowledge: Knowledge, one: Subject, result: Result, style: Look) -> str:
    counts = [
        (severity, sum(finding.rule.severity == severity for finding in result.findings))
        for severity in _SYMBOLS
    ]
    verdict = ", ".join(f"{number} {severity}{'s' * (number > 1)}" for severity, number in counts if number)
    lines = [style.paint(f"{one.name}: {verdict or 'nothing found'}", "bold")]
    for finding in result.findings:
        lines += ["", *_finding(finding, nearest_changes(knowledge, one, finding), style)]
    missing = result.missing
    if missing:
        named = [f"{name} ({number})" for name, number in list(missing.items())[:_NAMED_UNKNOWN]]
        more = f" and {len(missing) - len(named)} more" if len(missing) > len(named) else ""
        others = len(result.undecided) - len(result.urgent)
        text = f"unknown: {len(result.urgent)} rules wait for {', '.join(named)}{more}"
        text += f"; {others} others are about things nobody mentioned" if others else ""
        lines += ["", *(style.paint(line, "dim") for line in wrap(text, style.width))]
    lines += [style.paint(f"not read: {line}", "warn") for line in one.unread]
    return style.plain("\n".join(lines))


def _finding(finding: Finding, changes: Sequence[Change], style: Look) -> list[str]:
    rule = finding.rule
    symbol = style.paint(style.symbol(_SYMBOLS[rule.severity]), _STYLES[rule.severity])
    facts = ", ".join(f"{name} {write_value(value)}" for name, value in finding.facts.items())
    entries = [
        ("", rule.why),
        ("facts", facts),
        ("set" if rule.severity == "setting" else "change", _settings(finding)),
        ("fix", rule.fix),
        ("nearest", ", ".join(_change(change) for change in changes)),
        ("source", ", ".join(rule.sources)),
    ]
    lines = [f"{symbol} {style.paint(f'{rule.severity} {rule.id}', _STYLES[rule.severity])}"]
    for label, text in entries:
        for index, line in enumerate(wrap(text, max(style.width - 11, 30)) if text else ()):
            lines.append(f"  {label if index == 0 else '':<8} {line}".rstrip() if label else f"  {line}")
    return lines


def _settings(finding: Finding) -> str:
    text = ", ".join(str(setting) for setting in finding.rule.settings)
    return f"{text} (optional)" if any(s.optional for s in finding.rule.settings) else text


def _change(change: Change) -> str:
    before = "" if change.before is None else f"{write_value(change.before)} → "
    return f"{change.fact} {before}{write_value(change.after) or '(empty)'}"


def nearest_changes(knowledge: Knowledge, one: Subject, finding: Finding) -> tuple[Change, ...]:
    optional = any(setting.optional for setting in finding.rule.settings)
    if finding.rule.severity == "note" or optional:
        return ()
    return nearest(knowledge, one.stated, finding)


def _json(knowledge: Knowledge, one: Subject, result: Result) -> dict[str, Any]:
    return {
        "name": one.name,
        "fits": not result.errors,
        "facts": {name: write_value(value) for name, value in result.facts.items()},
        "findings": [
            {
                "rule": finding.rule.id,
                "severity": finding.rule.severity,
                "side": finding.rule.side,
                "why": finding.rule.why,
                "fix": finding.rule.fix,
                "sources": list(finding.rule.sources),
                "date": finding.rule.date,
                "facts": {name: write_value(value) for name, value in finding.facts.items()},
                "nearest": [words(change) for change in nearest_changes(knowledge, one, finding)],
                "settings": [
                    {"kind": s.kind, "name": s.name, "value": s.value, "optional": s.optional}
                    for s in finding.rule.settings
                ],
            }
            for finding in result.findings
        ],
        "undecided": {rule.id: list(rule.missing(result.facts)) for rule in result.undecided},
        "unread": list(one.unread),
    }
