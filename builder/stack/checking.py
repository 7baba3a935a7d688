"""Check a combination of versions against every rule, and list the rules that stay undecided."""

from collections import Counter
from collections.abc import Iterable

from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import SEVERITIES, Finding, Rule, Setting
from builder.stack.vocabulary import Facts
from builder.values import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The findings, most severe first, and the rules that are undecided because facts are unknown."""

    facts: Facts
    findings: tuple[Finding, ...]
    undecided: tuple[Rule, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.rule.severity == "error")

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that the image or the job needs, without optional ones."""
        return tuple(s for finding in self.findings for s in finding.rule.settings if not s.optional)

    @property
    def urgent(self) -> tuple[Rule, ...]:
        """Undecided rules of severity error or warning that refer to at least one known fact."""
        return tuple(
            rule
            for rule in self.undecided
            if rule.severity in ("error", "warning") and any(name in self.facts for name in rule.facts)
        )

    @property
    def missing(self) -> dict[str, int]:
        """Unknown facts with the number of urgent rules that need each fact, highest number first."""
        waiting = Counter(name for rule in self.urgent for name in rule.missing(self.facts))
        return dict(sorted(waiting.items(), key=lambda item: (-item[1], item[0])))


def check(knowledge: Knowledge, stated: Facts) -> Result:
    """Apply all rules to `stated` and the facts that follow from it."""
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
    """Return the ids of the rules of these severities that fire; cheaper than `check`."""
    facts = derive(stated, knowledge)
    wanted = frozenset(severities)
    return frozenset(rule.id for rule in knowledge.rules if rule.severity in wanted and rule.fires(facts))
