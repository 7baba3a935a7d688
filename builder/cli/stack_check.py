"""`builder stack check`: check a stack, an image, this machine or the facts of --set against the rules.

Exits with 8 if an error rule fires. Reports unknown facts and never assumes them.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.adapters.engine.client import Engine
from builder.adapters.host import survey
from builder.app.context import add_json, open_context, parser, print_json
from builder.cli.stack import describe_unknown, find_stack
from builder.errors import IncompatibleError, UsageError
from builder.screen.text import Look, count, look, wrap
from builder.stack.checking import Result, check
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Change, Finding
from builder.stack.solving.nearest import change_json, nearest
from builder.stack.versions import Version
from builder.stack.vocabulary import Value, read_value, write_value
from builder.tables import did_you_mean

_SYMBOLS = {"error": "failed", "warning": "skipped", "setting": "built", "note": "present"}
_STYLES = {"error": "bad", "warning": "warn", "setting": "work", "note": "dim"}
_NAMED = 8  # unknown facts named in text; --json has all


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Facts to check, a title for the output, and messages about facts that could not be read."""

    name: str
    stated: Mapping[str, Value]
    unread: tuple[str, ...] = ()


def run(parsed: argparse.Namespace) -> int:
    context = open_context(parsed)
    knowledge = context.knowledge
    if not parsed.stack:
        context.report_broken(knowledge.broken)
    if parsed.instance and parsed.instance not in knowledge.instances:
        raise UsageError(
            f"--instance: no EC2 type '{parsed.instance}'"
            f"{did_you_mean(parsed.instance, knowledge.instances)}",
            hint="catalog/instances.toml lists the known types",
        )
    settings = _read_settings(knowledge, parsed.set)
    checked = [
        (subject, check(knowledge, subject.stated)) for subject in _subjects(knowledge, parsed, settings)
    ]
    code = IncompatibleError.exit_code if any(result.errors for _, result in checked) else 0
    if parsed.json:
        found = [_json(knowledge, subject, result) for subject, result in checked]
        print_json(parsed, found, exit_code=code)
    else:
        style = look(sys.stdout, os.environ)
        print("\n\n".join(_text(knowledge, subject, result, style) for subject, result in checked))
    return code


def options() -> argparse.ArgumentParser:
    found = parser(
        "stack check",
        "Check versions against the rules. Without STACK, --image, --host or --set, checks every stack on its"
        " machine types. Exits with 8 if a rule of severity error fires.",
    )
    found.add_argument("stack", nargs="?", metavar="STACK")
    found.add_argument("--instance", metavar="TYPE", help="EC2 type, for example p5.48xlarge")
    found.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FACT=VALUE",
        help="set a fact, or override one that was read; may be repeated",
    )
    found.add_argument("--image", metavar="IMAGE", help="check an image in the engine")
    found.add_argument("--host", action="store_true", help="check this machine; with --image, as its host")
    add_json(found)
    return found


def _read_settings(knowledge: Knowledge, settings: Iterable[str]) -> dict[str, Value]:
    stated: dict[str, Value] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write FACT=VALUE", hint="builder stack check --help")
        try:
            fact = knowledge.vocabulary.fact(name)
            stated[fact.name] = read_value(fact, text)
        except ValueError as error:
            raise UsageError(
                f"--set {setting}: {error}", hint="catalog/facts.toml and catalog/versions/ list all facts"
            ) from error
    return stated


def _subjects(
    knowledge: Knowledge, parsed: argparse.Namespace, settings: Mapping[str, Value]
) -> Iterable[Subject]:
    machine: dict[str, Value] = {"instance": parsed.instance} if parsed.instance else {}
    if parsed.image or parsed.host:
        if parsed.stack:
            raise UsageError(
                "builder stack check: STACK is not allowed with --image or --host", hint="leave out STACK"
            )
        yield _survey(knowledge, parsed, {**machine, **settings})
    elif parsed.stack or not (settings or machine):
        for name in [find_stack(knowledge, parsed.stack).name] if parsed.stack else knowledge.stacks:
            types = [parsed.instance] if parsed.instance else knowledge.stacks[name].instances
            for instance in types or [""]:
                on: dict[str, Value] = {"instance": instance} if instance else {}
                title = f"{name} on {instance}" if instance else name
                yield Subject(name=title, stated={**knowledge.stack_facts(name), **on, **settings})
    else:
        stated = {**machine, **settings}
        title = ", ".join(f"{name} {write_value(value)}" for name, value in stated.items())
        yield Subject(name=title, stated=stated)


def _survey(knowledge: Knowledge, parsed: argparse.Namespace, settings: Mapping[str, Value]) -> Subject:
    """Read facts from an image, from this machine, or from an image with this machine as its host."""
    names, facts, unread = [], dict[str, Value](), list[str]()
    if parsed.host:
        found = survey.of_host(knowledge.vocabulary)
        # If an image is given, skip the facts of this machine that the image states itself.
        sides = ("machine", "host") if parsed.image else ("machine", "host", "image")
        facts |= knowledge.vocabulary.on(found.facts, sides)
        names, unread = ["this machine"], list(found.unread)
    if parsed.image:
        found = survey.of_image(Engine(), parsed.image, knowledge.vocabulary)
        facts |= knowledge.vocabulary.on(found.facts, ("image",))
        names, unread = [parsed.image, *names], [*unread, *found.unread]
    return Subject(name=" on ".join(names), stated={**facts, **settings}, unread=tuple(unread))


def _text(knowledge: Knowledge, subject: Subject, result: Result, style: Look) -> str:
    counts = [
        (severity, sum(finding.rule.severity == severity for finding in result.findings))
        for severity in _SYMBOLS
    ]
    verdict = ", ".join(f"{number} {severity}{'s' * (number > 1)}" for severity, number in counts if number)
    lines = [style.paint(f"{subject.name}: {verdict or 'no findings'}", "bold")]
    for finding in result.findings:
        lines += ["", *_finding(finding, nearest_changes(knowledge, subject, finding), style)]
    if result.missing:
        others = len(result.undecided) - len(result.urgent)
        text = describe_unknown(result, _NAMED)
        text += f"; {count(others, 'rule')} not applicable" if others else ""
        lines += ["", *(style.paint(line, "dim") for line in wrap(text, style.width))]
    for name, version in unlisted(knowledge, result.facts).items():
        text = f"{name} {version} is no release in catalog/versions/{name}.toml; rules may not cover it"
        lines += [style.paint(line, "warn") for line in wrap(text, style.width)]
    if uncompared := without_releases(knowledge, subject.stated):
        text = f"versions that the catalog does not list, so that a wrong one is not found: {uncompared}"
        lines += [style.paint(line, "dim") for line in wrap(text, style.width)]
    lines += [style.paint(f"could not read {line}", "warn") for line in subject.unread]
    return style.plain("\n".join(lines))


def unlisted(knowledge: Knowledge, facts: Mapping[str, Value]) -> dict[str, str]:
    """Return the versions that are missing from the catalog's list of releases, by fact."""
    return {
        name: write_value(value)
        for name, value in facts.items()
        if isinstance(value, Version) and knowledge.releases.get(name) and not knowledge.release(name, value)
    }


def without_releases(knowledge: Knowledge, stated: Mapping[str, Value]) -> str:
    """List the components with a stated version for which the catalog has no list of releases."""
    return ", ".join(
        f"{name} {write_value(value)}"
        for name, value in stated.items()
        if isinstance(value, Version)
        and knowledge.vocabulary.facts[name].is_component
        and not knowledge.releases.get(name)
    )


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


def nearest_changes(knowledge: Knowledge, subject: Subject, finding: Finding) -> tuple[Change, ...]:
    optional = any(setting.optional for setting in finding.rule.settings)
    if finding.rule.severity == "note" or optional:
        return ()
    return nearest(knowledge, subject.stated, finding)


def _json(knowledge: Knowledge, subject: Subject, result: Result) -> dict[str, Any]:
    return {
        "name": subject.name,
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
                "nearest": [change_json(change) for change in nearest_changes(knowledge, subject, finding)],
                "settings": [
                    {"kind": s.kind, "name": s.name, "value": s.value, "optional": s.optional}
                    for s in finding.rule.settings
                ],
            }
            for finding in result.findings
        ],
        "undecided": {rule.id: list(rule.missing(result.facts)) for rule in result.undecided},
        "unlisted": unlisted(knowledge, result.facts),
        "unread": list(subject.unread),
    }
