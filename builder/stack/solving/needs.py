"""What a machine needs: read off the stacks for machines with the same accelerators, and off the rules.

Says which components and choices there have to be, and nothing about versions.
"""

from collections.abc import Iterable

from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import all_of
from builder.stack.vocabulary import ABSENT, Facts, Value

# Of no use, with all that they bring, on a machine that is known not to have the thing.
_ONLY_WITH = {"efa": "has_efa"}


def needed(knowledge: Knowledge, facts: Facts, asked: Iterable[str]) -> frozenset[str]:
    """What most stacks for such machines have, what a rule wants there, and what was asked for."""
    asked = frozenset(asked)
    usual = _usual(knowledge, facts.get("accel"))
    for name, flag in _ONLY_WITH.items():
        if facts.get(flag) is False and name not in asked:
            brought = (release.contents for release in knowledge.releases.get(name, ()))
            usual -= {name, *(fact for contents in brought for fact in contents)}
    # What some rule wants to exist is there where such a rule applies, and nowhere else.
    demanded: dict[str, bool] = {}
    for rule in knowledge.rules:
        for clause in rule.require:
            if rule.severity == "error" and clause.operator == "exists":
                applies = all_of(c.holds(facts, if_absent=False) for c in rule.when) is True
                demanded[clause.fact] = demanded.get(clause.fact, False) or applies
    usual = {name for name in usual if demanded.get(name, True)}
    return asked | usual | {name for name, applies in demanded.items() if applies}


def _usual(knowledge: Knowledge, accel: Value | None) -> set[str]:
    """The components, and the choices about the host, that most stacks for machines of this make have."""
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
