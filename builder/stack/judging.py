"""Apply the rules to a stack in an image: settings for jobs, warnings, and errors that stop the build.

Pure; judges each machine type of the stack, with the facts that the target decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.model import Stack, System
from builder.stack.checking import check
from builder.stack.knowledge import Knowledge
from builder.stack.vocabulary import Value, write_value

# Machine type for stacks that name none: their settings hold on any machine.
ANYWHERE = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Settings by machine type, the ids of rules that warn, and the messages of rules with errors."""

    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def judge(knowledge: Knowledge, stack: Stack, system: System, *, kind: str, arch: str) -> Verdict:
    """Return the verdict of the rules on a stack in an image of this kind and architecture."""
    facts = _decided(knowledge, system, kind=kind, arch=arch)
    stated = {**knowledge.stack_facts(stack.name), **facts}
    settings: dict[str, tuple[str, ...]] = {}
    errors: list[str] = []
    warnings: set[str] = set()
    for instance in stack.instances or (ANYWHERE,):
        on: dict[str, Value] = {} if instance == ANYWHERE else {"instance": instance}
        result = check(knowledge, {**stated, **on})
        for finding in result.errors:
            text = ", ".join(f"{name} {write_value(value)}" for name, value in finding.facts.items())
            errors.append(f"{instance}: {finding.rule.id}: {finding.rule.why} ({text})")
        warnings |= {finding.rule.id for finding in result.findings if finding.rule.severity == "warning"}
        if values := tuple(dict.fromkeys(str(setting) for setting in result.settings)):
            settings[instance] = values
    return Verdict(settings=settings, warnings=tuple(sorted(warnings)), errors=tuple(errors))


def _decided(knowledge: Knowledge, system: System, *, kind: str, arch: str) -> dict[str, Value]:
    """Return the facts that a target decides, without values that the vocabulary does not list."""
    distribution = "al" if system.distribution == "amazon" else system.distribution
    decided = {"kind": kind, "arch": arch, "os": distribution + system.release.replace(".", "")}
    facts = knowledge.vocabulary.facts
    return {
        name: word
        for name, word in decided.items()
        if name in facts and word in (facts[name].one_of or (word,))
    }
