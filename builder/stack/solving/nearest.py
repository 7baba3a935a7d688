"""Find the smallest change of facts that makes a broken rule hold, as advice for the user.

Prefers few changes, upgrades and close releases; a change breaks no rule that held before. Pure; searches the
releases of the catalog.
"""

from collections.abc import Iterable, Iterator, Mapping

from builder.stack.checking import broken
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Change, Clause, Finding, Rule
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Facts, Value, write_value

# Never suggest another operating system, processor or machine.
_FIXED = frozenset({"os", "host_os", "arch", "kind", "has_efa", "torch_index"})
# Derived facts, each with the fact that must be changed instead.
_DERIVED_FROM = {
    "nvidia_driver_branch": "nvidia_driver",
    "nvidia_driver_below_bundled": "nvidia_driver",
    "gdrdrv": "gdrcopy",
    "kernel_gpl_symbols": "kernel",
}
_REPAIRS = 2  # further rules that one change may break and repair
_TRIES = 4  # trials to repair, at most, if they break another rule


def nearest(knowledge: Knowledge, stated: Facts, finding: Finding) -> tuple[Change, ...]:
    """Return the smallest changes that make the rule of `finding` hold; empty if no small change does."""
    accepted = broken(knowledge, stated)
    after = _repair(knowledge, stated, finding.rule, accepted, _REPAIRS)
    changes = tuple(
        Change(fact=name, before=stated.get(name), after=value)
        for name, value in (after or {}).items()
        if stated.get(name) != value
    )
    # A setting is no defect: never suggest a downgrade for it.
    if finding.rule.severity == "setting" and any(_is_downgrade(change) for change in changes):
        return ()
    return changes


def _is_downgrade(change: Change) -> bool:
    before, after = change.before, change.after
    return isinstance(before, Version) and isinstance(after, Version) and after < before


def _repair(
    knowledge: Knowledge, stated: Facts, rule: Rule, accepted: frozenset[str], repairs: int
) -> dict[str, Value] | None:
    """Return `stated` with the smallest change that makes `rule` hold; `accepted` rules may stay broken."""
    facts = derive(stated, knowledge)
    unmet = [clause for clause in rule.require if clause.holds(facts, if_absent=True) is False]
    if unmet:
        after = _satisfy(knowledge, stated, rule, unmet, accepted, repairs)
        if after is not None and rule.fires(derive(after, knowledge)) is not True:
            return after
    choices: list[tuple[bool, int, int, str, Value]] = []
    for position, name in enumerate(dict.fromkeys(name for clause in rule.when for name in clause.facts)):
        source = _source(knowledge, stated, facts, name)
        if source:
            clauses = [clause for clause in rule.when if name in clause.facts]
            choices += [
                (is_older, distance, position, source, value)
                for is_older, distance, value in _values(knowledge, facts, source, clauses)
            ]
    choices.sort(key=lambda choice: choice[:3])
    trials = (
        _with(knowledge, stated, source, value)
        for _, _, _, source, value in choices
        if rule.fires(derive(_with(knowledge, stated, source, value), knowledge)) is False
    )
    return _first_valid(knowledge, trials, accepted, repairs)


def _satisfy(
    knowledge: Knowledge,
    stated: Facts,
    rule: Rule,
    clauses: Iterable[Clause],
    accepted: frozenset[str],
    repairs: int,
) -> dict[str, Value] | None:
    """Return `stated` changed so that each clause is true, by changing the fact on the clause's left."""
    after: dict[str, Value] = dict(stated)
    for clause in clauses:
        facts = derive(after, knowledge)
        if clause.holds(facts, if_absent=True) is not False:
            continue  # an earlier change made it true
        source = _source(knowledge, after, facts, clause.fact)
        if not source:
            return None
        about = [other for other in rule.require if clause.fact in other.facts]
        choices = sorted(_values(knowledge, facts, source, about), key=lambda choice: choice[:2])
        trials = (_with(knowledge, after, source, value) for _, _, value in choices)
        kept = (t for t in trials if clause.holds(derive(t, knowledge), if_absent=False) is True)
        found = _first_valid(knowledge, kept, accepted, repairs)
        if found is None:
            return None
        after = found
    return after


def _first_valid(
    knowledge: Knowledge, trials: Iterator[dict[str, Value]], accepted: frozenset[str], repairs: int
) -> dict[str, Value] | None:
    """Return the first of `trials` that breaks only `accepted` rules, if need be with more changed facts."""
    tries = 0
    for trial in trials:
        new = broken(knowledge, trial) - accepted
        if not new:
            return trial
        if repairs and tries < _TRIES:
            tries += 1
            rule = next(rule for rule in knowledge.rules if rule.id in new)
            repaired = _repair(knowledge, trial, rule, accepted | new, repairs - 1)
            if repaired is not None and not broken(knowledge, repaired) - accepted:
                return repaired
    return None


def _source(knowledge: Knowledge, stated: Facts, facts: Facts, name: str) -> str:
    """Return the user's setting that determines the fact `name`, or "" if there is none."""
    if name not in stated:
        name = _DERIVED_FROM.get(name, name)
    if name not in stated:
        for provider, value in stated.items():
            release = knowledge.release(provider, value)
            if release is not None and facts.get(name) == release.contents.get(name, ""):
                name = provider
                break
    side = knowledge.vocabulary.facts[name].side
    return "" if side == "machine" or name in _FIXED else name


def _values(
    knowledge: Knowledge, facts: Facts, name: str, clauses: Iterable[Clause]
) -> Iterator[tuple[bool, int, Value]]:
    """Yield (is older, distance, value) of each possible value of `name`, relative to its current value."""
    now = facts.get(name)
    if isinstance(now, bool):
        yield False, 0, not now
        return
    versions = [release.version for release in knowledge.releases.get(name, ())]
    mentioned = [value for clause in clauses for value in _mentioned(clause, name, facts)]
    if not versions and (now is ABSENT or isinstance(now, Version)):
        versions = [value for value in mentioned if isinstance(value, Version)]
    if versions:
        for version in versions:
            if not isinstance(now, Version):
                yield False, versions.index(version), version
            elif version != now:
                low, high = sorted((version, now))
                yield version < now, sum(low < other <= high for other in versions), version
        return
    if isinstance(now, tuple):
        words = tuple(str(word) for word in mentioned)
        yield False, 0, tuple(word for word in now if word not in words)
        yield False, 1, (*now, *words)
        return
    for distance, value in enumerate((*mentioned, *knowledge.vocabulary.facts[name].one_of)):
        if value != now:
            yield False, distance, value


def _mentioned(clause: Clause, name: str, facts: Facts) -> Iterator[Value]:
    """Yield the values that a clause compares `name` with: constants, or the value of another fact."""
    if clause.other:
        other = facts.get(clause.other if clause.fact == name else clause.fact)
        if other is not None and other is not ABSENT:
            yield other
    elif clause.operator in ("in", "not_in", "contains_any"):
        assert isinstance(clause.value, tuple)
        yield from clause.value
    elif clause.operator != "exists":
        assert not isinstance(clause.value, tuple)
        yield clause.value


def _with(knowledge: Knowledge, stated: Facts, name: str, value: Value) -> dict[str, Value]:
    """Return `stated` with one fact changed, together with the facts that rules require to be equal to it."""
    before = stated.get(name)
    tied = {
        clause.fact: value
        for rule in knowledge.rules
        for clause in rule.require
        if clause.operator == "==" and clause.other == name and before is not None
        if stated.get(clause.fact) == before
    }
    return {**stated, **tied, name: value}


def change_json(change: Change) -> Mapping[str, str]:
    """Return a change as a JSON object of strings."""
    before = "" if change.before is None else write_value(change.before)
    return {"fact": change.fact, "from": before, "to": write_value(change.after)}
