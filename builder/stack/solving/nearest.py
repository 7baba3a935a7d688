"""The nearest change that makes a rule hold.

As few facts as can be, newer rather than older, one release away rather than five, and nothing that breaks
another rule which held before. Pure; a search over releases that the catalog lists.
"""

from collections.abc import Iterable, Iterator, Mapping

from builder.stack.checking import broken
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Change, Clause, Finding, Rule
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Facts, Value, write_value

# Nobody is helped by the advice to take another machine, system or processor.
_GIVEN = frozenset({"os", "host_os", "arch", "kind", "has_efa", "torch_index"})
# What a derived fact is read off.
_FOLLOWS = {
    "nvidia_driver_branch": "nvidia_driver",
    "nvidia_driver_below_bundled": "nvidia_driver",
    "gdrdrv": "gdrcopy",
    "kernel_gpl_symbols": "kernel",
}
_REPAIRS = 2  # how many further rules one change may drag along
_TRIES = 4  # values of one fact that are tried when each of them breaks something else


def nearest(knowledge: Knowledge, stated: Facts, finding: Finding) -> tuple[Change, ...]:
    """The changes after which the rule of `finding` holds; none where nothing near helps."""
    held = broken(knowledge, stated)
    after = _repair(knowledge, stated, finding.rule, held, _REPAIRS)
    changes = tuple(
        Change(fact=name, before=stated.get(name), after=value)
        for name, value in (after or {}).items()
        if stated.get(name) != value
    )
    # A setting is nothing wrong: worth a newer release, never an older one.
    worth = finding.rule.severity != "setting" or not any(_is_step_back(change) for change in changes)
    return changes if worth else ()


def _is_step_back(change: Change) -> bool:
    before, after = change.before, change.after
    return isinstance(before, Version) and isinstance(after, Version) and after < before


def _repair(
    knowledge: Knowledge, stated: Facts, rule: Rule, held: frozenset[str], repairs: int
) -> dict[str, Value] | None:
    """`stated` with the nearest change; the errors in `held` were there before and may stay."""
    facts = derive(stated, knowledge)
    unmet = [clause for clause in rule.require if clause.holds(facts, if_absent=True) is False]
    if unmet:
        after = _satisfy(knowledge, stated, rule, unmet, held, repairs)
        if after is not None and rule.fires(derive(after, knowledge)) is not True:
            return after
    choices: list[tuple[bool, int, int, str, Value]] = []
    for place, name in enumerate(dict.fromkeys(name for clause in rule.when for name in clause.facts)):
        source = _source(knowledge, stated, facts, name)
        if source:
            clauses = [clause for clause in rule.when if name in clause.facts]
            choices += [
                (down, distance, place, source, value)
                for down, distance, value in _values(knowledge, facts, source, clauses)
            ]
    choices.sort(key=lambda choice: choice[:3])
    trials = (
        _with(knowledge, stated, source, value)
        for _, _, _, source, value in choices
        if rule.fires(derive(_with(knowledge, stated, source, value), knowledge)) is False
    )
    return _first_sound(knowledge, trials, held, repairs)


def _satisfy(
    knowledge: Knowledge,
    stated: Facts,
    rule: Rule,
    clauses: Iterable[Clause],
    held: frozenset[str],
    repairs: int,
) -> dict[str, Value] | None:
    """Each clause made true by changing what stands on its left."""
    after: dict[str, Value] = dict(stated)
    for clause in clauses:
        facts = derive(after, knowledge)
        if clause.holds(facts, if_absent=True) is not False:
            continue  # an earlier change has settled it
        source = _source(knowledge, after, facts, clause.fact)
        if not source:
            return None
        about = [other for other in rule.require if clause.fact in other.facts]
        choices = sorted(_values(knowledge, facts, source, about), key=lambda choice: choice[:2])
        trials = (_with(knowledge, after, source, value) for _, _, value in choices)
        kept = (t for t in trials if clause.holds(derive(t, knowledge), if_absent=False) is True)
        found = _first_sound(knowledge, kept, held, repairs)
        if found is None:
            return None
        after = found
    return after


def _first_sound(
    knowledge: Knowledge, trials: Iterator[dict[str, Value]], held: frozenset[str], repairs: int
) -> dict[str, Value] | None:
    """The first trial that breaks nothing, or that can be repaired where it does."""
    tries = 0
    for trial in trials:
        new = broken(knowledge, trial) - held
        if not new:
            return trial
        if repairs and tries < _TRIES:
            tries += 1
            rule = next(rule for rule in knowledge.rules if rule.id in new)
            repaired = _repair(knowledge, trial, rule, held | new, repairs - 1)
            if repaired is not None and not broken(knowledge, repaired) - held:
                return repaired
    return None


def _source(knowledge: Knowledge, stated: Facts, facts: Facts, name: str) -> str:
    """The fact that somebody can change so that `name` becomes another; "" where there is none."""
    if name not in stated:
        name = _FOLLOWS.get(name, name)
    if name not in stated:
        for carrier, value in stated.items():
            release = knowledge.release(carrier, value)
            if release is not None and facts.get(name) == release.contents.get(name, ""):
                name = carrier
                break
    side = knowledge.vocabulary.facts[name].side
    return "" if side == "machine" or name in _GIVEN else name


def _values(
    knowledge: Knowledge, facts: Facts, name: str, clauses: Iterable[Clause]
) -> Iterator[tuple[bool, int, Value]]:
    """What `name` might become: (is older, how far away, value)."""
    now = facts.get(name)
    if isinstance(now, bool):
        yield False, 0, not now
        return
    versions = [release.version for release in knowledge.releases.get(name, ())]
    named = [value for clause in clauses for value in _mentioned(clause, name, facts)]
    if not versions and (now is ABSENT or isinstance(now, Version)):
        versions = [value for value in named if isinstance(value, Version)]
    if versions:
        for version in versions:
            if not isinstance(now, Version):
                yield False, versions.index(version), version
            elif version != now:
                low, high = sorted((version, now))
                yield version < now, sum(low < other <= high for other in versions), version
        return
    if isinstance(now, tuple):
        words = tuple(str(word) for word in named)
        yield False, 0, tuple(word for word in now if word not in words)
        yield False, 1, (*now, *words)
        return
    for distance, value in enumerate((*named, *knowledge.vocabulary.facts[name].one_of)):
        if value != now:
            yield False, distance, value


def _mentioned(clause: Clause, name: str, facts: Facts) -> Iterator[Value]:
    """The constants a clause compares `name` with, or the value of the other fact."""
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
    """`stated` with one fact changed, and with it those that a rule ties to it by equality."""
    before = stated.get(name)
    tied = {
        clause.fact: value
        for rule in knowledge.rules
        for clause in rule.require
        if clause.operator == "==" and clause.other == name and before is not None
        if stated.get(clause.fact) == before
    }
    return {**stated, **tied, name: value}


def words(change: Change) -> Mapping[str, str]:
    """A change as strings, for screens and JSON."""
    before = "" if change.before is None else write_value(change.before)
    return {"fact": change.fact, "from": before, "to": write_value(change.after)}
