"""`builder stack solve`: find the newest versions that work together on a machine, and explain each version.

Exits with 8 if the requests contradict each other.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from builder.app.context import add_json, open_context, parser, print_facts, print_json, print_table
from builder.cli.stack import describe_unknown
from builder.errors import IncompatibleError, UsageError
from builder.screen.text import Look, look, wrap
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Rule
from builder.stack.solving.ask import Request, pin, state
from builder.stack.solving.problem import IMPORTANCE
from builder.stack.solving.solve import (
    Clash,
    Contradiction,
    Reason,
    Rejection,
    Row,
    Solution,
    complete,
    find_alternatives,
    solve,
)
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Value, write_value
from builder.tables import did_you_mean

_NAMED = 3  # rejected versions and unknown facts named in text; --json has all
_STYLES = {"error": "bad", "warning": "warn"}


def run(parsed: argparse.Namespace) -> int:
    knowledge = open_context(parsed).knowledge
    asked = _requests(knowledge, parsed)
    requests = complete(knowledge, asked)
    answer = solve(knowledge, requests)
    style = look(sys.stdout, os.environ)
    if isinstance(answer, Contradiction):
        alternatives = find_alternatives(knowledge, requests, answer)
        if parsed.json:
            found = _contradiction_json(answer, alternatives)
            print_json(parsed, found, exit_code=IncompatibleError.exit_code)
        else:
            print(style.plain("\n".join(_contradiction(answer, alternatives, style))))
        return IncompatibleError.exit_code
    if parsed.json:
        print_json(parsed, _solution_json(knowledge, answer))
    elif parsed.toml:
        print(stack_file(knowledge, answer), end="")
    else:
        _print_solution(knowledge, answer, style)
    return 0


def options() -> argparse.ArgumentParser:
    found = parser(
        "stack solve",
        "Find the newest versions in the catalog that work together on a machine, and explain why none is"
        " newer. The set has no errors, as few warnings as possible, then the newest versions by priority: "
        f"{', '.join(IMPORTANCE)}, then the others by name.",
    )
    found.add_argument("--instance", metavar="TYPE", help="EC2 type, for example p5.48xlarge")
    found.add_argument("--torch", metavar="TORCH", help="PyTorch: an exact version or its first numbers")
    found.add_argument("--os", metavar="OS", help="operating system, for example ubuntu-24.04 or al2023")
    found.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="COMPONENT=VERSION",
        help="release in the catalog: an exact version or its first numbers; may be repeated",
    )
    found.add_argument(
        "--set", action="append", default=[], metavar="FACT=VALUE", help="set a fact; may be repeated"
    )
    form = found.add_mutually_exclusive_group()
    form.add_argument("--toml", action="store_true", help="print a stack file for catalog/stacks/")
    add_json(form)
    return found


# Requests


def _requests(knowledge: Knowledge, parsed: argparse.Namespace) -> tuple[Request, ...]:
    requests: dict[str, Request] = {}
    for request in _read(knowledge, parsed):
        if request.fact in requests:
            first = requests[request.fact].argument
            raise UsageError(
                f"{request.argument}: {request.fact} is already set by {first}",
                hint="pass only one of the two options",
            )
        requests[request.fact] = request
    facts = derive({r.fact: r.value for r in requests.values() if r.value is not None}, knowledge)
    if "accel" not in facts:
        raise UsageError(
            "builder stack solve: no machine given",
            hint="add --instance p5.48xlarge, or --set accel=nvidia for any machine with NVIDIA GPUs",
        )
    return tuple(requests.values())


def _read(knowledge: Knowledge, parsed: argparse.Namespace) -> Iterator[Request]:
    if parsed.instance:
        if parsed.instance not in knowledge.instances:
            suggestion = did_you_mean(parsed.instance, knowledge.instances)
            raise UsageError(
                f"--instance: no EC2 type '{parsed.instance}'{suggestion}",
                hint="catalog/instances.toml lists the known types",
            )
        yield state(knowledge, "instance", parsed.instance, f"--instance {parsed.instance}")
    if parsed.os:
        # The catalog uses the name ubuntu-24.04, the rules use ubuntu2404.
        name = parsed.os.replace("-", "").replace(".", "")
        yield _request(knowledge, f"--os {parsed.os}", "os", name)
    if parsed.torch:
        instance = knowledge.instances.get(parsed.instance)
        component = "torch_neuronx" if instance is not None and instance.accel == "neuron" else "torch"
        yield _request(knowledge, f"--torch {parsed.torch}", component, parsed.torch, choose=True)
    for option, entries in (("--pin", parsed.pin), ("--set", parsed.set)):
        for entry in entries:
            name, equals, text = entry.partition("=")
            if not equals:
                raise UsageError(f"{option} {entry}: write NAME=VALUE", hint="builder stack solve --help")
            yield _request(knowledge, f"{option} {entry}", name, text, choose=option == "--pin")


def _request(knowledge: Knowledge, argument: str, name: str, text: str, *, choose: bool = False) -> Request:
    try:
        return (pin if choose else state)(knowledge, name, text, argument)
    except ValueError as error:
        hint = (
            "catalog/facts.toml and catalog/versions/ list all names; --set takes versions not listed there"
        )
        raise UsageError(f"{argument}: {error}", hint=hint) from error


# Solutions


def _print_solution(knowledge: Knowledge, answer: Solution, style: Look) -> None:
    count = len(answer.warnings)
    warnings = f"with {count} warning{'s' * (count > 1)}" if count else "without a warning"
    title = ", ".join(request.argument for request in answer.requests if not request.assumed)
    print(style.plain(style.paint(f"{title}: the newest set, {warnings}", "bold") + "\n"))
    vocabulary = knowledge.vocabulary.facts
    rows = sorted(answer.rows, key=lambda row: vocabulary[row.fact].side)
    print_table(
        ("side", "fact", "version", "why not newer"),
        [(vocabulary[row.fact].side, row.fact, _value(row.value), _reason(answer, row)) for row in rows],
        prose=("why not newer",),
    )
    if held := _rules_of(answer.rows):
        print()
        texts = ((rule.id, f"{rule.severity}: {rule.why} ({', '.join(rule.sources)})") for rule in held)
        print_facts([("held back by", ""), *texts])
    lines: list[str] = []
    for finding in answer.warnings:
        lines += ["", *_rule(finding.rule, style, facts=finding.facts)]
    notes = [
        *(("assumed", f"{r.argument} ({r.assumption})") for r in answer.requests if r.assumed),
        *(
            ("ensure", f"{', '.join(c.text for c in condition.clauses)} ({condition.rule.id})")
            for condition in answer.conditions
        ),
    ]
    if answer.result.missing:
        notes.append(("unknown", describe_unknown(answer.result, _NAMED)))
    lines += ["", *(line for label, text in notes for line in _entry(label, text, style))]
    print(style.plain("\n".join(lines)))


def _value(value: Value | None) -> str:
    return "unknown" if value is None else write_value(value)


def _reason(answer: Solution, row: Row) -> str:
    """Explain in a few words why a version was chosen, for a table cell."""
    if row.twin:
        return f"must match {row.twin}"
    if row.comes_with:
        return f"comes with {' and '.join(row.comes_with)}"
    requested = f"requested: {row.request.argument}" if row.request else ""
    rejected = [_rejection(answer, row, r) for r in row.rejected if row.request not in r.reasons]
    best = "newest" if isinstance(row.value, Version) else "preferred"
    return "; ".join([*([requested] if requested else []), *rejected]) or best


def _rejection(answer: Solution, row: Row, rejection: Rejection) -> str:
    named = [_value(value) for value in rejection.values]
    versions = ", ".join(named) if len(named) <= _NAMED else f"{named[0]} to {named[-1]}"
    return f"{versions}: {' and '.join(_name(answer, row, reason) for reason in rejection.reasons)}"


def _name(answer: Solution, row: Row, reason: Reason) -> str:
    """Return a short text for the reason of a version in the table row `row`."""
    if isinstance(reason, Request):
        return reason.argument
    if isinstance(reason, Rule):
        return reason.id
    providers = " and ".join(f"{name} {write_value(answer.result.facts[name])}" for name in reason.providers)
    if row.fact == reason.fact:
        return f"not in {providers}"
    return f"its {reason.fact}" if row.fact in reason.providers else f"{reason.fact} of {providers}"


def _rules_of(rows: Iterable[Row]) -> tuple[Rule, ...]:
    found = {
        reason.id: reason
        for row in rows
        for rejection in row.rejected
        for reason in rejection.reasons
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


# Contradictions


def _contradiction(
    answer: Contradiction, alternatives: Sequence[tuple[Request, Value]], style: Look
) -> list[str]:
    title = "these requests contradict each other; drop any one of them and the rest fits"
    lines = [style.paint(title, "bold"), ""]
    lines += [f"  {r.argument}{f' (assumed: {r.assumption})' if r.assumed else ''}" for r in answer.core]
    for clash in answer.clashes:
        asked = {r.fact: r.text for r in answer.core if r.value is None and r.fact not in clash.facts}
        lines += ["", *_clash(clash, asked, style)]
    if alternatives:
        lines.append("")
    for request, value in alternatives:
        text = f"{request.fact} {write_value(value)} instead of {request.argument}"
        lines += _entry("try", text, style)
    return lines


def _clash(clash: Clash, asked: Mapping[str, str], style: Look) -> list[str]:
    if isinstance(clash.reason, Rule):
        open_ = {name: asked[name] for name in clash.reason.facts if name in asked}
        return _rule(clash.reason, style, facts={**clash.facts, **open_})
    lines = [style.paint(_describe(clash), "bad")]
    return lines + [f"  {line}" for line in _entry("contents", "; ".join(_listed(clash)), style)]


def _describe(clash: Clash) -> str:
    reason = clash.reason
    assert not isinstance(reason, Rule)
    return f"{reason.fact} comes with {' and '.join(reason.providers)}"


def _listed(clash: Clash) -> Iterator[str]:
    for provider, release, versions in clash.provided[:_NAMED]:
        yield f"{provider} {release}: {', '.join(str(version) for version in versions)}"
    if len(clash.provided) > _NAMED:
        yield f"and {len(clash.provided) - _NAMED} older"
    if not clash.provided:
        yield "no known contents for the requested version"


# JSON and TOML


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
                "request": row.request.argument if row.request else None,
                "comes_with": list(row.comes_with),
                "must_match": row.twin or None,
                "held_back": [
                    {
                        "values": [_value(value) for value in rejection.values],
                        "by": [_name(answer, row, reason) for reason in rejection.reasons],
                    }
                    for rejection in row.rejected
                ],
            }
            for row in answer.rows
        ],
        "facts": {name: write_value(value) for name, value in answer.result.facts.items()},
        "warnings": [finding.rule.id for finding in answer.warnings],
        "ensure": {c.rule.id: [clause.text for clause in c.clauses] for c in answer.conditions},
        "undecided": {rule.id: list(rule.missing(answer.result.facts)) for rule in answer.result.undecided},
        "rules": {name: _rule_json(rule) for name, rule in rules.items()},
        "stack": stack_file(knowledge, answer),
    }


def _contradiction_json(
    answer: Contradiction, alternatives: Iterable[tuple[Request, Value]]
) -> dict[str, Any]:
    return {
        "fits": False,
        "contradiction": [_request_json(request) for request in answer.core],
        "because": [
            _rule_json(clash.reason)
            | {"facts": {name: write_value(value) for name, value in clash.facts.items()}}
            if isinstance(clash.reason, Rule)
            else {"id": clash.reason.id, "why": _describe(clash), "contents": list(_listed(clash))}
            for clash in answer.clashes
        ],
        "instead": {request.argument: write_value(value) for request, value in alternatives},
    }


def _request_json(request: Request) -> dict[str, Any]:
    return {
        "argument": request.argument,
        "fact": request.fact,
        "text": request.text,
        "assumed": request.assumption or None,
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
    """Return the solved versions as a TOML file for catalog/stacks/, without bundled versions."""
    vocabulary, result = knowledge.vocabulary.facts, answer.result
    brought = {row.fact for row in answer.rows if row.comes_with}
    arch = {"arch": result.facts["arch"]} if "arch" in result.facts else {}
    stated = {n: value for n, value in {**answer.stated, **arch}.items() if n not in {*brought, "instance"}}
    pins = {n: v for n, v in stated.items() if vocabulary[n].is_component and v is not ABSENT}
    others = {n: v for n, v in stated.items() if not vocabulary[n].is_component}
    instance = answer.stated.get("instance")
    asked = ", ".join(r.argument.removeprefix("--") for r in answer.requests if not r.assumed)
    return "\n".join(
        [
            f"summary = {_toml(f'Solved for {asked}')}",
            *([f"instances = [{_toml(instance)}]"] if instance else []),
            "\n[pins]",
            *(f"{name} = {_toml(write_value(value))}" for name, value in sorted(pins.items())),
            "\n[facts]",
            *(f"{name} = {_toml(value)}" for name, value in sorted(others.items())),
            *(
                f"# ensure: {' and '.join(clause.text for clause in condition.clauses)} ({condition.rule.id})"
                for condition in answer.conditions
            ),
            "",
        ]
    )


def _toml(value: Value | str) -> str:
    """Return a value as TOML; strings, lists and booleans are written as in JSON."""
    if isinstance(value, bool | int | tuple):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)
