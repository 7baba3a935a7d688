"""Determine the components that a machine needs, from the stacks for the same accelerator and from the rules.

Returns the names of components and host settings; knows nothing about versions.
"""

from collections.abc import Iterable

from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import all_of
from builder.stack.vocabulary import ABSENT, Facts, Value

# Component → fact; if the fact is false, the component and its contents are not needed.
_ONLY_IF = {"efa": "has_efa"}


def needed(knowledge: Knowledge, facts: Facts, asked: Iterable[str]) -> frozenset[str]:
    """Return the components that are requested, usual for this accelerator, or required by a rule."""
    asked = frozenset(asked)
    usual = _usual(knowledge, facts.get("accel"))
    for name, flag in _ONLY_IF.items():
        if facts.get(flag) is False and name not in asked:
            brought = (release.contents for release in knowledge.releases.get(name, ()))
            usual -= {name, *(fact for contents in brought for fact in contents)}
    # A component that rules require to exist is needed only if such a rule applies.
    demanded: dict[str, bool] = {}
    for rule in knowledge.rules:
        for clause in rule.require:
            if rule.severity == "error" and clause.operator == "exists":
                applies = all_of(c.holds(facts, if_absent=False) for c in rule.when) is True
                demanded[clause.fact] = demanded.get(clause.fact, False) or applies
    usual = {name for name in usual if demanded.get(name, True)}
    return asked | usual | {name for name, applies in demanded.items() if applies}


def _usual(knowledge: Knowledge, accel: Value | None) -> set[str]:
    """Return the components and host settings that most stacks for this accelerator have."""
    counts: dict[str, int] = {}
    total = 0
    for stack in knowledge.stacks.values():
        instance = next((i for i in stack.instances if knowledge.instances[i].accel == accel), None)
        if instance is None:
            continue
        total += 1
        stated = knowledge.stack_facts(stack.name)
        facts = derive({**stated, "instance": instance}, knowledge)
        for name, value in facts.items():
            fact = knowledge.vocabulary.facts[name]
            chosen = name in stack.facts and fact.kind == "word" and fact.side == "host" and fact.one_of
            if value is not ABSENT and (fact.is_component or chosen):
                counts[name] = counts.get(name, 0) + 1
    return {name for name, count in counts.items() if 2 * count > total}
