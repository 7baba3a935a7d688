"""Rules: conditions over facts, with three truth values (true, false, None for unknown), and their findings.

Pure: no network, no clock, no files. A rule fires if all clauses of `when` hold and, if it has `require`, at
least one clause of `require` does not hold. A clause over an unknown fact is unknown, never true.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any

from builder.stack.versions import Version, compare
from builder.stack.vocabulary import ABSENT, Fact, Facts, Value, Vocabulary, read_value
from builder.values import dataclass

SEVERITIES = ("error", "warning", "setting", "note")
# Side of a rule → sides whose facts the rule may use, in addition to facts of the machine type.
SIDES: Mapping[str, frozenset[str]] = {
    "host": frozenset({"host"}),
    "image": frozenset({"image"}),
    "both": frozenset({"host", "image"}),
    "build": frozenset({"build", "image"}),
    "site": frozenset({"site"}),
}
_ORDERS = ("==", "!=", "<", "<=", ">", ">=")
_SETS = ("in", "not_in")
_LISTS = ("in", "not_in", "contains_any")
_OPERATORS: Mapping[str, tuple[str, ...]] = {
    "version": (*_ORDERS, *_SETS, "exists"),
    "number": (*_ORDERS, *_SETS),
    "word": ("==", "!=", *_SETS, "exists"),
    "flag": ("==", "!="),
    "words": ("contains", "contains_any"),
}
_CLAUSE = re.compile(r"(?P<fact>[a-z]\w*) (?:exists|(?P<operator>[!=<>]=|<|>|[a-z_]+) (?P<value>\S.*))")

Truth = bool | None


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition that compares one fact with another fact (`other`) or with a constant (`value`)."""

    text: str
    fact: str
    operator: str
    value: Value | tuple[Value, ...] = ()
    other: str = ""

    @property
    def facts(self) -> tuple[str, ...]:
        return (self.fact, self.other) if self.other else (self.fact,)

    def holds(self, facts: Facts, *, if_absent: bool) -> Truth:
        """Return whether the clause is true, false or unknown (None); `if_absent` if an operand is ABSENT."""
        left = facts.get(self.fact)
        if self.operator == "exists":
            return None if left is None else left is not ABSENT
        right = facts.get(self.other) if self.other else self.value
        if left is ABSENT or right is ABSENT:
            return if_absent
        if left is None or right is None:
            return None
        return _TESTS[self.operator](left, self.operator, right)


def _compare(left: Any, operator: str, right: Any) -> Truth:
    if isinstance(left, Version) and isinstance(right, Version):
        return compare(left, operator, right)
    if operator in ("==", "!="):
        return bool(left == right) == (operator == "==")
    if isinstance(left, int) and isinstance(right, int):
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]
    return None  # a moving name ("latest") has no order


def _is_in(left: Any, operator: str, right: Any) -> Truth:
    return any(_compare(left, "==", value) for value in right) == (operator == "in")


def _contains(left: Any, _: str, right: Any) -> Truth:
    return right in left


def _contains_any(left: Any, _: str, right: Any) -> Truth:
    return not set(right).isdisjoint(left)


_TESTS: Mapping[str, Callable[[Any, str, Any], Truth]] = {
    **dict.fromkeys(_ORDERS, _compare),
    **dict.fromkeys(_SETS, _is_in),
    "contains": _contains,
    "contains_any": _contains_any,
}


def parse_clause(text: str, vocabulary: Vocabulary) -> Clause:
    """Parse a condition such as `cuda >= 12.4`; raise ValueError that explains a mistake in it."""
    match = _CLAUSE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a condition; write: fact operator value, or: fact exists")
    fact = vocabulary.fact(match["fact"])
    operator = match["operator"] or "exists"
    allowed = _OPERATORS[fact.kind]
    if operator not in allowed:
        raise ValueError(
            f"'{operator}' does not apply to {fact.name}, a {fact.kind} (use: {', '.join(allowed)})"
        )
    if operator == "exists":
        return Clause(text, fact.name, operator)
    other = vocabulary.facts.get(match["value"])
    if other is not None and other.kind == fact.kind and fact.kind in ("version", "number"):
        return Clause(text, fact.name, operator, other=other.name)
    return Clause(text, fact.name, operator, value=_constant(fact, operator, match["value"]))


def _constant(fact: Fact, operator: str, text: str) -> Value | tuple[Value, ...]:
    listed = text.startswith("[") and text.endswith("]")
    if listed != (operator in _LISTS):
        raise ValueError(f"'{operator}' takes {'a [list]' if not listed else 'one value, not a list'}")
    if not listed:
        value = read_value(fact, text)
        return value[0] if isinstance(value, tuple) else value
    words = [word.strip() for word in text[1:-1].split(",")]
    values = [read_value(fact, word) for word in words]
    return tuple(value[0] if isinstance(value, tuple) else value for value in values)


def all_of(truths: Iterable[Truth]) -> Truth:
    """Return False if any value is False, else None if any value is None (unknown), else True."""
    result: Truth = True
    for truth in truths:
        if truth is False:
            return False
        if truth is None:
            result = None
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A setting of the image or the job: an environment variable, a sysctl, a module parameter."""

    kind: str  # environment, image (environment of the image), unset, sysctl, modprobe, container
    name: str
    value: str = ""
    optional: bool = False

    def __str__(self) -> str:
        pair = f"{self.name}={self.value}" if self.value else self.name
        return {"environment": "", "container": ""}.get(self.kind, f"{self.kind} ") + pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A compatibility rule between versions, with its severity, explanation and sources."""

    id: str
    severity: str
    side: str
    subject: str
    why: str
    sources: tuple[str, ...]
    date: str
    when: tuple[Clause, ...]
    require: tuple[Clause, ...] = ()
    fix: str = ""
    basis: str = "read"
    settings: tuple[Setting, ...] = ()
    fires_for: tuple[Facts, ...] = field(default=(), hash=False)  # examples, each of them a test
    holds_for: tuple[Facts, ...] = field(default=(), hash=False)

    @property
    def facts(self) -> tuple[str, ...]:
        """The facts in the rule's clauses, in the order of the clauses."""
        names = (name for clause in (*self.when, *self.require) for name in clause.facts)
        return tuple(dict.fromkeys(names))

    def fires(self, facts: Facts) -> Truth:
        applies = all_of(clause.holds(facts, if_absent=False) for clause in self.when)
        if applies is False or not self.require:
            return applies
        kept = all_of(clause.holds(facts, if_absent=True) for clause in self.require)
        if kept is None or applies is None:
            return False if kept is True else None
        return not kept

    def missing(self, facts: Facts) -> tuple[str, ...]:
        """Return the facts of the rule's clauses that are unknown in `facts`."""
        return tuple(name for name in self.facts if name not in facts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of one fact from one value to another."""

    fact: str
    before: Value | None
    after: Value


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A rule that fires, and the facts that make it fire."""

    rule: Rule
    facts: Facts
