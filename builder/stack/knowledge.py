"""Frozen values for the catalog's knowledge about versions: releases, facts, rules."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property

from builder.model import Catalog, Instance, Stack
from builder.stack.rules import Clause, Rule, Truth, all_of
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Facts, Value, Vocabulary, write_value
from builder.values import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """Release of a component, with the versions of other components that it contains (by name of the fact).

    The release notes name the versions in `brings`; those in `keeps` are assumed from the previous release.
    `offers` lists alternative versions, of which a stack pins one.
    """

    version: Version
    date: str = ""
    sources: tuple[str, ...] = ()
    note: str = ""
    sha256: str = ""  # digest of the first archive, as published by the vendor or a project
    commit: str = ""  # commit of the tag in the project's repository
    bundled_driver: Version | None = None
    brings: Mapping[str, Version] = field(default_factory=dict)
    keeps: Mapping[str, Version] = field(default_factory=dict)
    offers: Mapping[str, tuple[Version, ...]] = field(default_factory=dict)

    @property
    def contents(self) -> dict[str, Version]:
        return {**self.keeps, **self.brings}


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """A flag that follows from other facts: true (or false) if all clauses of one alternative hold."""

    true_if: tuple[tuple[Clause, ...], ...]
    false_if: tuple[tuple[Clause, ...], ...]

    def value(self, facts: Facts) -> Truth:
        for answer, alternatives in ((True, self.true_if), (False, self.false_if)):
            if any(all_of(c.holds(facts, if_absent=False) for c in clauses) for clauses in alternatives):
                return answer
        return None


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """The catalog, the rules, and the facts and releases that the rules refer to."""

    catalog: Catalog
    vocabulary: Vocabulary
    rules: tuple[Rule, ...]
    releases: Mapping[str, tuple[Release, ...]]  # by fact, newest first
    stated: Mapping[str, Facts]  # the facts that a stack states, by its name
    derived: Mapping[str, Derived]
    sources: Mapping[str, str]
    broken: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # problems, by file in the catalog

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks without problems."""
        stacks = self.catalog.stacks
        return {name: stack for name, stack in stacks.items() if f"stacks/{name}.toml" not in self.broken}

    def problems_of(self, stack: str) -> tuple[str, ...]:
        """Return the problems of a stack, or () if it can be used."""
        return self.broken.get(f"stacks/{stack}.toml", ())

    @property
    def instances(self) -> Mapping[str, Instance]:
        return self.catalog.instances

    def digest(self, name: str) -> str:
        """Return a digest of a stack's pins, facts, machine types and requirements; ignores descriptions."""
        stack = self.stacks[name]
        content = [
            dict(stack.pins),
            {fact: write_value(value) for fact, value in self.stated[name].items()},
            sorted(stack.instances),
            list(stack.requirements),
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _by_version(self) -> dict[tuple[str, Version], Release]:
        return {
            (name, release.version): release
            for name, releases in self.releases.items()
            for release in releases
        }

    def release(self, fact: str, value: Value | None) -> Release | None:
        """Return the release of version `value`, without its package revision (2.29.3-1: release 2.29.3)."""
        if not isinstance(value, Version):
            return None
        exact = self._by_version.get((fact, value))
        return exact or self._by_version.get((fact, Version(value.upstream, value.text)))

    def stack_facts(self, name: str) -> dict[str, Value]:
        """Return the facts that a stack states, with ABSENT for each component that it does not pin.

        A stack for containers leaves the components of the host unknown.
        """
        stated = dict(self.stated[name])
        sides = {"image", "host"} if stated.get("kind") == "ami" else {"image"}
        brought = {
            other
            for fact, value in stated.items()
            if (release := self.release(fact, value)) is not None
            for other in release.contents
        }
        for fact in self.vocabulary.facts.values():
            if fact.is_component and fact.side in sides and fact.name not in brought:
                stated.setdefault(fact.name, ABSENT)
        return stated
