"""Whether a combination fits: every rule over every fact, and what could not be decided."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import SEVERITIES, Finding, Rule, Setting
from builder.stack.vocabulary import Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The findings, worst first, and the rules that nobody could decide on these facts."""

    facts: Facts
    findings: tuple[Finding, ...]
    undecided: tuple[Rule, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.rule.severity == "error")

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What the image or the job has to carry, without what is merely possible."""
        return tuple(s for finding in self.findings for s in finding.rule.settings if not s.optional)

    @property
    def urgent(self) -> tuple[Rule, ...]:
        """The undecided rules that would be an error or a warning, and are about something that is known."""
        return tuple(
            rule
            for rule in self.undecided
            if rule.severity in ("error", "warning") and any(name in self.facts for name in rule.facts)
        )

    @property
    def missing(self) -> dict[str, int]:
        """Unknown facts and how many of those rules wait for each; what would decide most comes first."""
        waiting = Counter(name for rule in self.urgent for name in rule.missing(self.facts))
        return dict(sorted(waiting.items(), key=lambda item: (-item[1], item[0])))


def check(knowledge: Knowledge, stated: Facts) -> Result:
    """All rules over `stated` and what follows from it."""
    facts = derive(stated, knowledge)
    verdicts = [(rule, rule.fires(facts)) for rule in knowledge.rules]
    findings = [
        Finding(rule=rule, facts={name: facts[name] for name in rule.facts if name in facts})
        for rule, fires in verdicts
        if fires
    ]
    return Result(
        facts=facts,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.rule.severity))),
        undecided=tuple(rule for rule, fires in verdicts if fires is None),
    )


def broken(knowledge: Knowledge, stated: Facts, severities: Iterable[str] = ("error",)) -> frozenset[str]:
    """The ids of the rules of these severities that fire; the cheap question of a search."""
    facts = derive(stated, knowledge)
    wanted = frozenset(severities)
    return frozenset(rule.id for rule in knowledge.rules if rule.severity in wanted and rule.fires(facts))
