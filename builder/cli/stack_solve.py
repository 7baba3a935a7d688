"""`builder stack solve`: the newest versions that fit a machine, each with its reason, or why there are none.

Exit code 2 if the requests contradict each other.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from builder.app.context import open_context, parser, print_table
from builder.errors import UsageError
from builder.screen.text import Look, look, wrap
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.loading import load
from builder.stack.rules import Rule
from builder.stack.solving.ask import Request, pin, state
from builder.stack.solving.problem import IMPORTANCE
from builder.stack.solving.solve import (
    Clash,
    Contradiction,
    Held,
    Reason,
    Row,
    Solution,
    complete,
    solve,
    ways_out,
)
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Value, write_value
from builder.tables import did_you_mean

_NAMED = 3  # newer versions, and unknown facts, that are named in text; --json has all
_STYLES = {"error": "bad", "warning": "warn"}


def run(argv: Sequence[str]) -> int:
    parsed = _options().parse_args(argv)
    knowledge = load(open_context(parsed).root)
    asked = _requests(knowledge, parsed)
    requests = complete(knowledge, asked)
    answer = solve(knowledge, requests)
    style = look(sys.stdout, os.environ)
    if isinstance(answer, Contradiction):
        ways = ways_out(knowledge, requests, answer)
        if parsed.json:
            print(json.dumps(_contradiction_json(answer, ways), indent=2))
        else:
            print(style.plain("\n".join(_contradiction(answer, ways, style))))
        return 2
    if parsed.json:
        print(json.dumps(_solution_json(knowledge, answer), indent=2))
    elif parsed.toml:
        print(stack_file(knowledge, answer), end="")
    else:
        _print_solution(knowledge, answer, style)
    return 0


def _options() -> argparse.ArgumentParser:
    options = parser(
        "stack solve",
        "The versions of the catalogue that fit a machine together, and why none of them is newer:"
        " no error, then as few warnings as can be, then the newest, first of "
        f"{', '.join(IMPORTANCE)}, and of the rest by name.",
    )
    options.add_argument("--instance", metavar="TYPE", help="EC2 type, as in p5.48xlarge")
    options.add_argument("--torch", metavar="VERSION", help="PyTorch, exact or by its first numbers")
    options.add_argument("--os", metavar="NAME", help="operating system, as in ubuntu-24.04 or al2023")
    options.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="COMPONENT=VERSION",
        help="a release of the catalogue, exact or by its first numbers; may be repeated",
    )
    options.add_argument(
        "--set", action="append", default=[], metavar="FACT=VALUE", help="state a fact; may be repeated"
    )
    form = options.add_mutually_exclusive_group()
    form.add_argument("--toml", action="store_true", help="as a stack, ready for catalog/stacks/")
    form.add_argument("--json", action="store_true", help="as JSON")
    return options


# What was asked for


def _requests(knowledge: Knowledge, parsed: argparse.Namespace) -> tuple[Request, ...]:
    requests: dict[str, Request] = {}
    for request in _read(knowledge, parsed):
        if request.fact in requests:
            first = requests[request.fact].words
            raise UsageError(
                f"{request.words}: {first} is about {request.fact} already", hint="keep one of them"
            )
        requests[request.fact] = request
    facts = derive({r.fact: r.value for r in requests.values() if r.value is not None}, knowledge)
    if "accel" not in facts:
        raise UsageError(
            "builder stack solve: for which machine?",
            hint="add --instance p5.48xlarge, or --set accel=nvidia for any with such accelerators",
        )
    return tuple(requests.values())


def _read(knowledge: Knowledge, parsed: argparse.Namespace) -> Iterator[Request]:
    if parsed.instance:
        if parsed.instance not in knowledge.instances:
            near = did_you_mean(parsed.instance, knowledge.instances)
            raise UsageError(
                f"--instance: no type '{parsed.instance}'{near}",
                hint="catalog/instances.toml lists the types that are known",
            )
        yield state(knowledge, "instance", parsed.instance, f"--instance {parsed.instance}")
    if parsed.os:
        # Systems are named with dashes and dots in the catalogue, and without in the rules.
        name = parsed.os.replace("-", "").replace(".", "")
        yield _said(knowledge, f"--os {parsed.os}", "os", name)
    if parsed.torch:
        instance = knowledge.instances.get(parsed.instance)
        component = "torch_neuronx" if instance is not None and instance.accel == "neuron" else "torch"
        yield _said(knowledge, f"--torch {parsed.torch}", component, parsed.torch, choose=True)
    for option, entries in (("--pin", parsed.pin), ("--set", parsed.set)):
        for entry in entries:
            name, equals, text = entry.partition("=")
            if not equals:
                raise UsageError(f"{option} {entry}: write NAME=VALUE", hint="builder stack solve --help")
            yield _said(knowledge, f"{option} {entry}", name, text, choose=option == "--pin")


def _said(knowledge: Knowledge, words: str, name: str, text: str, *, choose: bool = False) -> Request:
    try:
        return (pin if choose else state)(knowledge, name, text, words)
    except ValueError as error:
        hint = (
            "--set states what the catalogue does not list; catalog/versions/ and facts.toml have all names"
        )
        raise UsageError(f"{words}: {error}", hint=hint) from error


# A set that fits


def _print_solution(knowledge: Knowledge, answer: Solution, style: Look) -> None:
    count = len(answer.warnings)
    warnings = f"with {count} warning{'s' * (count > 1)}" if count else "without a warning"
    title = ", ".join(request.words for request in answer.requests if not request.assumed)
    print(style.plain(style.paint(f"{title}: the newest set, {warnings}", "bold") + "\n"))
    vocabulary = knowledge.vocabulary.facts
    rows = sorted(answer.rows, key=lambda row: vocabulary[row.fact].side)
    print_table(
        ("side", "fact", "version", "why not a newer one"),
        [(vocabulary[row.fact].side, row.fact, _value(row.value), _reason(answer, row)) for row in rows],
    )
    held = [(rule.id, rule.severity, rule.why, ", ".join(rule.sources)) for rule in _rules_of(answer.rows)]
    if held:
        print()
        print_table(("held back by", "", "why", "source"), held)
    lines: list[str] = []
    for finding in answer.warnings:
        lines += ["", *_rule(finding.rule, style, facts=finding.facts)]
    notes = [
        *(("assumed", f"{r.words} ({r.why})") for r in answer.requests if r.assumed),
        *(
            ("see to", f"{', '.join(c.text for c in condition.clauses)} ({condition.rule.id})")
            for condition in answer.conditions
        ),
    ]
    missing = [f"{name} ({number})" for name, number in answer.result.missing.items()]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        waiting = f"{len(answer.result.urgent)} rules wait for {', '.join(missing[:_NAMED])}{more}"
        notes.append(("unknown", waiting))
    lines += ["", *(line for label, text in notes for line in _entry(label, text, style))]
    print(style.plain("\n".join(lines)))


def _value(value: Value | None) -> str:
    return "not read" if value is None else write_value(value)


def _reason(answer: Solution, row: Row) -> str:
    """Why this version, in the few words that a table has room for."""
    if row.twin:
        return f"has to be that of {row.twin}"
    if row.comes_with:
        return f"comes with {' and '.join(row.comes_with)}"
    asked = f"asked for: {row.request.words}" if row.request else ""
    held = [_held(answer, row, one) for one in row.held if row.request not in one.reasons]
    best = "newest" if isinstance(row.value, Version) else "the usual one"
    return "; ".join([*([asked] if asked else []), *held]) or best


def _held(answer: Solution, row: Row, held: Held) -> str:
    named = [_value(value) for value in held.values]
    versions = ", ".join(named) if len(named) <= _NAMED else f"{named[0]} to {named[-1]}"
    return f"{versions}: {' and '.join(_speaks(answer, row, reason) for reason in held.reasons)}"


def _speaks(answer: Solution, row: Row, reason: Reason) -> str:
    """What speaks against a newer version, seen from the thing that is held back."""
    if isinstance(reason, Request):
        return reason.words
    if isinstance(reason, Rule):
        return reason.id
    carriers = " and ".join(f"{name} {write_value(answer.result.facts[name])}" for name in reason.carriers)
    if row.fact == reason.fact:
        return f"not in {carriers}"
    return f"its {reason.fact}" if row.fact in reason.carriers else f"{reason.fact} of {carriers}"


def _rules_of(rows: Iterable[Row]) -> tuple[Rule, ...]:
    found = {
        reason.id: reason
        for row in rows
        for held in row.held
        for reason in held.reasons
        if isinstance(reason, Rule)
    }
    return tuple(found.values())


def _rule(rule: Rule, style: Look, *, facts: Mapping[str, Value]) -> list[str]:
    lines = [style.paint(f"{rule.severity} {rule.id}", _STYLES[rule.severity])]
    known = ", ".join(f"{name} {write_value(value)}" for name, value in facts.items())
    condition = ", ".join(clause.text for clause in rule.when)
    if rule.require:
        condition += " → " + ", ".join(clause.text for clause in rule.require)
    entries = [("rule", condition), ("why", rule.why), ("facts", known), ("fix", rule.fix)]
    for label, text in [*entries, ("source", ", ".join(rule.sources))]:
        lines += [f"  {line}" for line in _entry(label, text, style)] if text else []
    return lines


def _entry(label: str, text: str, style: Look) -> list[str]:
    lines = wrap(text, max(style.width - 11, 30))
    return [f"{label if number == 0 else '':<8} {line}" for number, line in enumerate(lines)]


# A contradiction


def _contradiction(answer: Contradiction, ways: Sequence[tuple[Request, Value]], style: Look) -> list[str]:
    title = "these requests contradict each other; without any one of them the others fit"
    lines = [style.paint(title, "bold"), ""]
    lines += [f"  {r.words}{f' (assumed: {r.why})' if r.assumed else ''}" for r in answer.core]
    for clash in answer.clashes:
        asked = {r.fact: r.text for r in answer.core if r.value is None and r.fact not in clash.facts}
        lines += ["", *_clash(clash, asked, style)]
    if ways:
        lines.append("")
    for request, value in ways:
        lines += _entry("instead", f"of {request.words}: {write_value(value)}", style)
    return lines


def _clash(clash: Clash, asked: Mapping[str, str], style: Look) -> list[str]:
    if isinstance(clash.reason, Rule):
        open_ = {name: asked[name] for name in clash.reason.facts if name in asked}
        return _rule(clash.reason, style, facts={**clash.facts, **open_})
    lines = [style.paint(_comes(clash), "bad")]
    return lines + [f"  {line}" for line in _entry("contents", "; ".join(_listed(clash)), style)]


def _comes(clash: Clash) -> str:
    reason = clash.reason
    assert not isinstance(reason, Rule)
    return f"{reason.fact} comes with {' and '.join(reason.carriers)}"


def _listed(clash: Clash) -> Iterator[str]:
    for carrier, release, versions in clash.brought[:_NAMED]:
        yield f"{carrier} {release}: {', '.join(str(version) for version in versions)}"
    if len(clash.brought) > _NAMED:
        yield f"and {len(clash.brought) - _NAMED} older"
    if not clash.brought:
        yield "nobody has read them for what was asked for"


# For machines


def _solution_json(knowledge: Knowledge, answer: Solution) -> dict[str, Any]:
    rules = {rule.id: rule for rule in _rules_of(answer.rows)}
    rules |= {finding.rule.id: finding.rule for finding in answer.warnings}
    rules |= {condition.rule.id: condition.rule for condition in answer.conditions}
    vocabulary = knowledge.vocabulary.facts
    return {
        "fits": True,
        "requests": [_request_json(request) for request in answer.requests],
        "versions": [
            {
                "fact": row.fact,
                "component": row.fact if vocabulary[row.fact].is_component else "",
                "side": vocabulary[row.fact].side,
                "value": None if row.value is None else write_value(row.value),
                "request": row.request.words if row.request else None,
                "comes_with": list(row.comes_with),
                "has_to_be_that_of": row.twin or None,
                "held_back": [
                    {
                        "values": [_value(value) for value in held.values],
                        "by": [_speaks(answer, row, reason) for reason in held.reasons],
                    }
                    for held in row.held
                ],
            }
            for row in answer.rows
        ],
        "facts": {name: write_value(value) for name, value in answer.result.facts.items()},
        "warnings": [finding.rule.id for finding in answer.warnings],
        "see_to": {c.rule.id: [clause.text for clause in c.clauses] for c in answer.conditions},
        "undecided": {rule.id: list(rule.missing(answer.result.facts)) for rule in answer.result.undecided},
        "rules": {name: _rule_json(rule) for name, rule in rules.items()},
        "stack": stack_file(knowledge, answer),
    }


def _contradiction_json(answer: Contradiction, ways: Iterable[tuple[Request, Value]]) -> dict[str, Any]:
    return {
        "fits": False,
        "contradiction": [_request_json(request) for request in answer.core],
        "because": [
            _rule_json(clash.reason)
            | {"facts": {name: write_value(value) for name, value in clash.facts.items()}}
            if isinstance(clash.reason, Rule)
            else {"id": clash.reason.id, "why": _comes(clash), "contents": list(_listed(clash))}
            for clash in answer.clashes
        ],
        "instead": {request.words: write_value(value) for request, value in ways},
    }


def _request_json(request: Request) -> dict[str, Any]:
    return {
        "words": request.words,
        "fact": request.fact,
        "text": request.text,
        "assumed": request.why or None,
    }


def _rule_json(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "severity": rule.severity,
        "when": [clause.text for clause in rule.when],
        "require": [clause.text for clause in rule.require],
        "why": rule.why,
        "fix": rule.fix,
        "sources": list(rule.sources),
    }


def stack_file(knowledge: Knowledge, answer: Solution) -> str:
    """The set as a file of catalog/stacks/: what was chosen or stated, and not what comes with it."""
    vocabulary, facts = knowledge.vocabulary.facts, answer.result.facts
    brought = {row.fact for row in answer.rows if row.comes_with}
    pins = {
        name: value
        for name, value in answer.stated.items()
        if vocabulary[name].is_component and name not in brought and value is not ABSENT
    }
    others = {
        name: value
        for name, value in {
            **answer.stated,
            **{name: facts[name] for name in ("arch",) if name in facts},
        }.items()
        if not vocabulary[name].is_component and name not in brought and name != "instance"
    }
    instance = answer.stated.get("instance")
    words = ", ".join(request.words.removeprefix("--") for request in answer.requests if not request.assumed)
    return "\n".join(
        [
            f"summary = {_toml(f'Solved for {words}')}",
            *([f"instances = [{_toml(instance)}]"] if instance else []),
            "\n[pins]",
            *(f"{name} = {_toml(write_value(value))}" for name, value in sorted(pins.items())),
            "\n[facts]",
            *(f"{name} = {_toml(value)}" for name, value in sorted(others.items())),
            *(
                f"# see to: {' and '.join(c.text for c in one.clauses)} ({one.rule.id})"
                for one in answer.conditions
            ),
            "",
        ]
    )


def _toml(value: Value | str) -> str:
    """A value of a stack file; JSON's strings, lists and flags are TOML's."""
    if isinstance(value, bool | int | tuple):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)
