"""What somebody asks a solver for: versions, exact or by their first numbers, and facts of the machine.

Reads and matches requests; knows nothing of how they are met.
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
# Release candidates and packages' own numbers are meant to the letter.
_LITERAL = re.compile(r"v?(?:\d+:)?\d+(?:\.\d+)*[^.\d]")
# What is taken for granted where nobody says otherwise, and why that is no guess.
_ASSUMED = {
    "kind": ("ami", "one machine: host and image are the same installation"),
    "torch_index": ("pypi", "the catalogue lists the wheels of the package index"),
    "has_efa": ("true", "the set installs EFA, so EFA is used"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One thing that was asked for: a fact stated as it is (`value`), or a choice among releases (None)."""

    fact: str
    text: str
    words: str  # as the user wrote it
    value: Value | None = None
    why: str = ""  # of what is assumed; "" where somebody asked

    @property
    def assumed(self) -> bool:
        return bool(self.why)

    def allows(self, version: Version) -> bool:
        """Whether `version` is what was asked for; `2.10` means any 2.10."""
        if self.value is not None:
            return version == self.value
        if _LITERAL.match(self.text):
            return compare(version, "==", parse(self.text))
        asked, offered = numbers(self.text), numbers(version.text)
        return (*offered, *[0] * len(asked))[: len(asked)] == asked


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version as they are written, zeros at the end included."""
    match = _NUMBERS.match(text)
    return tuple(int(number) for number in match[1].split(".")) if match else ()


def pin(knowledge: Knowledge, name: str, text: str, words: str) -> Request:
    """A release among those that the catalogue knows; ValueError where there is none."""
    fact = knowledge.vocabulary.fact(name)
    if fact.kind != "version":
        raise ValueError(f"'{fact.name}' is no component; state it with --set {fact.name}={text}")
    parse(text)
    request = Request(fact=fact.name, text=text, words=words)
    versions = choices(knowledge, fact.name)
    if versions and not any(request.allows(version) for version in versions):
        near = did_you_mean(text, [str(version) for version in versions])
        raise ValueError(f"the catalogue has no {fact.name} {text}{near or f'; its newest is {versions[0]}'}")
    return request if versions else state(knowledge, name, text, words)


def state(knowledge: Knowledge, name: str, text: str, words: str) -> Request:
    """A fact as it is, whether the catalogue lists such a version or not."""
    fact = knowledge.vocabulary.fact(name)
    value = read_value(fact, text)
    return Request(fact=fact.name, text=write_value(value), words=words, value=value)


def assume(knowledge: Knowledge, requests: Iterable[Request], needed: Iterable[str]) -> tuple[Request, ...]:
    """What is taken for granted beside `requests`, each with its reason."""
    requests, needed = list(requests), set(needed)
    facts = derive({r.fact: r.value for r in requests if r.value is not None}, knowledge)
    wanted = {"kind"}
    if facts.get("accel") == "nvidia" and "torch" in needed:
        wanted.add("torch_index")
    if "efa" in needed:
        wanted.add("has_efa")
    return tuple(
        Request(fact=fact, text=text, words=f"{fact}={text}", value=read_value(known, text), why=why)
        for fact, (text, why) in _ASSUMED.items()
        if fact in wanted and fact not in facts and (known := knowledge.vocabulary.facts.get(fact))
    )


def known_versions(knowledge: Knowledge) -> Mapping[str, tuple[Version, ...]]:
    """Every version of a fact that the catalogue names, its own releases or in others, newest first."""
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
    """The versions among which `name` can be chosen: its own, or those of its twin."""
    known = known_versions(knowledge)
    twin = twin_of(knowledge, name)
    return known.get(name, ()) or known.get(twin, ())


def twin_of(knowledge: Knowledge, name: str) -> str:
    """The fact whose very version a rule wants of `name`, as of a driver's services; "" if there is none."""
    twins = (
        clause.other
        for rule in knowledge.rules
        if rule.severity == "error"
        for clause in rule.require
        if clause.fact == name and clause.operator == "==" and clause.other
    )
    return next(twins, "")
