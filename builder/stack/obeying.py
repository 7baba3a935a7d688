"""What a build owes to the rules: no error on any machine its stack is for, and the settings of its jobs.

Pure; what it judges is a plan, what it judges by is the catalog's knowledge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.errors import CatalogError
from builder.model import Plan
from builder.stack.checking import check
from builder.stack.knowledge import Knowledge
from builder.stack.vocabulary import Value, write_value

# Where a stack names no machine type: the settings hold wherever it runs.
ANYWHERE = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Settings by machine type, and the ids of the warnings that somebody should have read."""

    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def judge(knowledge: Knowledge, plan: Plan) -> Verdict:
    """The verdict on a plan; raises CatalogError where an error-level rule fires."""
    stated = {**knowledge.stack_facts(plan.stack.name), **_of_plan(knowledge, plan)}
    settings: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    warnings: set[str] = set()
    for instance in knowledge.stacks[plan.stack.name].instances or (ANYWHERE,):
        on: dict[str, Value] = {} if instance == ANYWHERE else {"instance": instance}
        result = check(knowledge, {**stated, **on})
        for finding in result.errors:
            facts = ", ".join(f"{name} {write_value(value)}" for name, value in finding.facts.items())
            problems.append(f"{instance}: {finding.rule.id}: {finding.rule.why} ({facts})")
        warnings |= {finding.rule.id for finding in result.findings if finding.rule.severity == "warning"}
        settings[instance] = tuple(dict.fromkeys(str(setting) for setting in result.settings))
    if problems:
        raise CatalogError(
            [f"target '{plan.target.name}': stack '{plan.stack.name}' on {problem}" for problem in problems],
            hint=f"builder stack check {plan.stack.name} --set kind={plan.target.kind}",
        )
    kept = {instance: values for instance, values in settings.items() if values}
    return Verdict(settings=kept, warnings=tuple(sorted(warnings)))


def _of_plan(knowledge: Knowledge, plan: Plan) -> dict[str, Value]:
    """What the target decides, whatever its stack was tested with; in the words that the rules know."""
    distribution = "al" if plan.system.distribution == "amazon" else plan.system.distribution
    said = {
        "kind": plan.target.kind,
        "arch": plan.arch,
        "os": distribution + plan.system.release.replace(".", ""),
    }
    facts = knowledge.vocabulary.facts
    return {
        name: word for name, word in said.items() if name in facts and word in (facts[name].one_of or (word,))
    }
