"""What the catalog knows about versions, as frozen values: releases, machine types, stacks, rules."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from builder.stack.rules import Clause, Rule, Truth, all_of
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Facts, Value, Vocabulary, write_value


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """One release of a component and what comes with it, by fact.

    `brings` was read in the release's notes; `keeps` is not named there and so taken from the release before.
    `offers` lists alternatives, of which a stack pins one.
    """

    version: Version
    date: str = ""
    sources: tuple[str, ...] = ()
    note: str = ""
    sha256: str = ""
    bundled_driver: Version | None = None
    brings: Mapping[str, Version] = field(default_factory=dict)
    keeps: Mapping[str, Version] = field(default_factory=dict)
    offers: Mapping[str, tuple[Version, ...]] = field(default_factory=dict)

    @property
    def contents(self) -> dict[str, Version]:
        return {**self.keeps, **self.brings}


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One EC2 type, as far as versions depend on it; None is what nobody could read."""

    name: str
    family: str
    accelerator: str
    accel: str
    arch: str
    gdr: bool
    nvswitch: str
    gpu_sm: int | None = None
    count: int | None = None
    memory_gib: int | None = None
    vcpus: int | None = None
    efa: int | None = None
    cards: int | None = None
    gbps: int | None = None
    dollars_per_hour: float | None = None
    boot_modes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """A flag that follows from other facts: lists of alternatives, each of them all its clauses."""

    true_if: tuple[tuple[Clause, ...], ...]
    false_if: tuple[tuple[Clause, ...], ...]

    def value(self, facts: Facts) -> Truth:
        for answer, alternatives in ((True, self.true_if), (False, self.false_if)):
            if any(all_of(c.holds(facts, if_absent=False) for c in clauses) for clauses in alternatives):
                return answer
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """A stack as the rules see it: everything stated about it, and the machine types it is for."""

    name: str
    summary: str
    origin: str
    pins: Mapping[str, str]
    facts: Facts
    instances: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Changes with anything a user of the stack would get, and not with the words about it."""
        content = [
            dict(self.pins),
            {name: write_value(value) for name, value in self.facts.items()},
            sorted(self.instances),
            list(self.requirements),
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """Everything that is known, cross-checked."""

    vocabulary: Vocabulary
    rules: tuple[Rule, ...]
    releases: Mapping[str, tuple[Release, ...]]  # by fact, newest first
    instances: Mapping[str, Instance]
    stacks: Mapping[str, Combination]
    derived: Mapping[str, Derived]
    sources: Mapping[str, str]

    @cached_property
    def _by_version(self) -> dict[tuple[str, Version], Release]:
        return {(name, one.version): one for name, all_ in self.releases.items() for one in all_}

    def release(self, fact: str, value: Value | None) -> Release | None:
        """The release that `value` names; a package revision (2.29.3-1) is still that release."""
        if not isinstance(value, Version):
            return None
        exact = self._by_version.get((fact, value))
        return exact or self._by_version.get((fact, Version(value.upstream, value.text)))

    def stack_facts(self, name: str) -> dict[str, Value]:
        """What a stack states; what it does not pin is not in it, except on a host that is not part of it."""
        stated = dict(self.stacks[name].facts)
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
