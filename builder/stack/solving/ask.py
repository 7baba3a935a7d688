"""Requests to the solver: component versions (exact, or a prefix such as 2.10) and facts of the machine.

Parses requests and matches versions against them; knows nothing about the search.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.versions import Version, compare, parse
from builder.stack.vocabulary import Value, read_value, write_value
from builder.tables import did_you_mean

_NUMBERS = re.compile(r"v?(?:\d+:)?(\d+(?:\.\d+)*)")
# Requested version with a pre-release or package revision, which matches only the same version.
_LITERAL = re.compile(r"v?(?:\d+:)?\d+(?:\.\d+)*[^.\d]")
# Facts assumed unless the user states them: value and justification.
_ASSUMED = {
    "kind": ("ami", "an AMI: host and image are the same installation"),
    "torch_index": ("pypi", "the catalog lists the wheels on PyPI"),
    "has_efa": ("true", "the set installs EFA, so EFA is used"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Request of the user: a fact with the stated `value`, or, if `value` is None, a version to choose."""

    fact: str
    text: str
    argument: str  # the text on the command line: `--torch 2.10`
    value: Value | None = None
    assumption: str = ""  # the justification of an assumed fact; "" for requests of the user

    @property
    def assumed(self) -> bool:
        return bool(self.assumption)

    def allows(self, version: Version) -> bool:
        """True if `version` meets the request; `2.10` means any 2.10."""
        if self.value is not None:
            return version == self.value
        if _LITERAL.match(self.text):
            return compare(version, "==", parse(self.text))
        asked, offered = numbers(self.text), numbers(version.text)
        return (*offered, *[0] * len(asked))[: len(asked)] == asked


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version as written, including trailing zeros."""
    match = _NUMBERS.match(text)
    return tuple(int(number) for number in match[1].split(".")) if match else ()


def pin(knowledge: Knowledge, name: str, text: str, argument: str) -> Request:
    """Request a version of a component; raise ValueError if the catalog lists no such version."""
    fact = knowledge.vocabulary.fact(name)
    if fact.kind != "version":
        raise ValueError(f"'{fact.name}' is not a component; set it with --set {fact.name}={text}")
    parse(text)
    request = Request(fact=fact.name, text=text, argument=argument)
    versions = choices(knowledge, fact.name)
    if versions and not any(request.allows(version) for version in versions):
        suggestion = did_you_mean(text, [str(version) for version in versions])
        suggestion = suggestion or f"; the newest is {versions[0]}"
        raise ValueError(f"the catalog has no {fact.name} {text}{suggestion}")
    return request if versions else state(knowledge, name, text, argument)


def state(knowledge: Knowledge, name: str, text: str, argument: str) -> Request:
    """Request a fixed value for a fact, even a version that the catalog does not list."""
    fact = knowledge.vocabulary.fact(name)
    value = read_value(fact, text)
    return Request(fact=fact.name, text=write_value(value), argument=argument, value=value)


def assume(knowledge: Knowledge, requests: Iterable[Request], needed: Iterable[str]) -> tuple[Request, ...]:
    """Return the facts that the solver assumes in addition to `requests`, each with a justification."""
    requests, needed = list(requests), set(needed)
    facts = derive({r.fact: r.value for r in requests if r.value is not None}, knowledge)
    wanted = {"kind"}
    if facts.get("accel") == "nvidia" and "torch" in needed:
        wanted.add("torch_index")
    if "efa" in needed:
        wanted.add("has_efa")
    return tuple(
        Request(
            fact=fact,
            text=text,
            argument=f"{fact}={text}",
            value=read_value(known, text),
            assumption=assumption,
        )
        for fact, (text, assumption) in _ASSUMED.items()
        if fact in wanted and fact not in facts and (known := knowledge.vocabulary.facts.get(fact))
    )


def known_versions(knowledge: Knowledge) -> Mapping[str, tuple[Version, ...]]:
    """Return all versions in the catalog by fact, newest first: releases and contents of releases."""
    found: dict[str, dict[Version, None]] = {}
    for fact, releases in knowledge.releases.items():
        for release in releases:
            found.setdefault(fact, {})[release.version] = None
    for _, releases in sorted(knowledge.releases.items()):
        for release in releases:
            for fact, version in release.contents.items():
                found.setdefault(fact, {})[version] = None
            for fact, choice in release.offers.items():
                found.setdefault(fact, {}).update(dict.fromkeys(choice))
    return {fact: tuple(sorted(versions, reverse=True)) for fact, versions in found.items()}


def choices(knowledge: Knowledge, name: str) -> tuple[Version, ...]:
    """Return the catalog's versions of a component; if none, those of the component that it must equal."""
    known = known_versions(knowledge)
    twin = twin_of(knowledge, name)
    return known.get(name, ()) or known.get(twin, ())


def twin_of(knowledge: Knowledge, name: str) -> str:
    """Return the fact that must equal `name`, such as the driver for the fabric manager; else ""."""
    twins = (
        clause.other
        for rule in knowledge.rules
        if rule.severity == "error"
        for clause in rule.require
        if clause.fact == name and clause.operator == "==" and clause.other
    )
    return next(twins, "")
