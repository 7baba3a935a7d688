"""Find the newest set of versions that meets the requests on a machine, or explain why there is none.

A set must not break a rule of severity error. Sets without unknown versions are preferred, then those with
fewer warnings, then the newest by importance (`problem.IMPORTANCE`). Pure and deterministic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.stack.checking import Result, check
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Clause, Finding, Rule, all_of
from builder.stack.solving.ask import Request, assume
from builder.stack.solving.problem import Candidate, Constraint, Contents, Problem, rank
from builder.stack.solving.search import (
    Assignment,
    Domains,
    explain,
    find_first,
    is_unsatisfiable,
    sufficient_alone,
)
from builder.stack.versions import Version
from builder.stack.vocabulary import Facts, Value

Reason = Rule | Contents | Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Better values that were not chosen, best first, and the reasons that together exclude them."""

    values: tuple[Candidate, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A fact in the solution, with its value (None: unknown) and the origin of the value."""

    fact: str
    value: Value | None
    request: Request | None = None
    comes_with: tuple[str, ...] = ()  # components that bring it
    twin: str = ""  # the fact whose version it must equal
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Requirements of a rule on facts that the solver cannot choose; the user must ensure them."""

    rule: Rule
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """A set of versions that meets the requests, with the reason for every version."""

    requests: tuple[Request, ...]
    rows: tuple[Row, ...]
    stated: Facts
    result: Result
    conditions: tuple[Condition, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.result.findings if finding.rule.severity == "warning")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clash:
    """A rule or requirement that makes requests contradictory, with the known facts that it depends on."""

    reason: Rule | Contents
    facts: Facts
    # Each entry: provider, release of the provider, versions of the component in that release.
    provided: tuple[tuple[str, Version, tuple[Version, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Contradiction:
    """A minimal set of requests that contradict each other, and the reasons."""

    core: tuple[Request, ...]
    clashes: tuple[Clash, ...]


def complete(knowledge: Knowledge, requests: Iterable[Request]) -> tuple[Request, ...]:
    """Return the requests, followed by the solver's assumptions about facts that the requests leave open."""
    requests = tuple(requests)
    return (*requests, *assume(knowledge, requests, Problem(knowledge, requests).needed))


def solve(knowledge: Knowledge, requests: Iterable[Request]) -> Solution | Contradiction:
    """Find the best set for these requests, without adding assumptions."""
    requests = tuple(sorted(requests, key=_importance))
    problem = Problem(knowledge, requests)
    best = _find_best(problem)
    if best is None:
        return _contradiction(knowledge, requests)
    stated = problem.stated(enumerate(best.assignment))
    result = check(knowledge, stated)
    return Solution(
        requests=requests,
        rows=tuple(_rows(problem, best, result.facts)),
        stated=stated,
        result=result,
        conditions=tuple(_conditions(result)),
    )


def _importance(request: Request) -> tuple[bool, bool, bool, tuple[int, str]]:
    """Return the sort key of a request: machine, other stated facts, requested versions, assumptions."""
    return (request.assumed, request.value is None, request.fact != "instance", rank(request.fact))


@dataclass(frozen=True, slots=True)
class _Best:
    """The best assignment, and the domains that it was chosen from."""

    assignment: Assignment
    domains: Domains


def _is_satisfiable(problem: Problem, domains: Domains) -> bool:
    """Return whether an assignment exists; adds constraints for errors that only a full check finds."""
    return find_first(problem, hard=problem.hard, domains=domains, learn=True).assignment is not None


def _find_best(problem: Problem) -> _Best | None:
    """Find the newest of the sets with the fewest warnings.

    Tries unknown versions last: they leave rules undecided, so such sets seem to have fewer warnings.
    """
    candidates = (problem.known_domains, problem.domains)
    domains = next((domains for domains in candidates if _is_satisfiable(problem, domains)), None)
    if domains is None:
        return None
    found, bound = None, _count_unavoidable_warnings(problem, domains)
    while found is None:
        found = find_first(
            problem, hard=problem.hard, soft=problem.soft, bound=bound, domains=domains, learn=True
        ).assignment
        bound += 1
    return _Best(found, domains)


def _count_unavoidable_warnings(problem: Problem, domains: Domains) -> int:
    """Return a lower bound on the warnings: the number of disjoint constraint groups that each cause one."""
    groups, left = 0, list(problem.soft)
    while (outcome := find_first(problem, hard=(*problem.hard, *left), domains=domains)).assignment is None:
        groups, left = groups + 1, [constraint for constraint in left if constraint not in outcome.used]
    return groups


def _conditions(result: Result) -> Iterable[Condition]:
    for rule in result.undecided:
        applies = all_of(clause.holds(result.facts, if_absent=False) for clause in rule.when)
        if rule.severity == "error" and applies:
            unknown = (c for c in rule.require if c.holds(result.facts, if_absent=True) is None)
            yield Condition(rule=rule, clauses=tuple(unknown))


# Explanation of a version


def _rows(problem: Problem, best: _Best, facts: Facts) -> Iterable[Row]:
    """Return a row for every chosen fact and every version, by importance."""
    rows = {
        variable.fact: _row(problem, best, level, facts) for level, variable in enumerate(problem.variables)
    }
    for name, twin in problem.twins.items():
        if name in facts:
            rows[name] = Row(fact=name, value=facts[name], twin=twin)
    for name, value in facts.items():
        if name not in rows and isinstance(value, Version):
            rows[name] = Row(
                fact=name,
                value=value,
                request=problem.requests.get(name),
                comes_with=problem.providers_of(name),
            )
    return sorted(rows.values(), key=lambda row: rank(row.fact))


def _row(problem: Problem, best: _Best, level: int, facts: Facts) -> Row:
    variable = problem.variables[level]
    value = variable.values[best.assignment[level]]
    providers = tuple(
        p for p in variable.providers if value is None or problem.brings(p, facts, variable.fact)
    )
    return Row(
        fact=variable.fact,
        value=value,
        request=variable.request,
        comes_with=providers,
        rejected=() if providers else tuple(_rejections(problem, best, level)),
    )


def _rejections(problem: Problem, best: _Best, level: int) -> Iterable[Rejection]:
    """Yield the reasons why no better value was chosen, grouping values with the same reasons."""
    variable = problem.variables[level]
    better = range(best.assignment[level])
    excluded = tuple(variable.values[index] for index in better if index not in variable.allowed)
    if excluded and variable.request is not None:
        yield Rejection(values=excluded, reasons=(variable.request,))
    # Warnings that the best set has too are no reason to reject a value.
    constraints = [*problem.hard, *(c for c in problem.soft if not problem.forbids(c, best.assignment))]
    left = [index for index in better if index in variable.allowed]

    def rejected_by(reasons: Sequence[Constraint]) -> list[int]:
        return [i for i in left if is_unsatisfiable(problem, reasons, _domains_with(best, level, i))]

    while left:
        domains = _domains_with(best, level, left[0])
        alone = sufficient_alone(problem, constraints, domains)
        explanations: list[tuple[Constraint, ...]] = [(constraint,) for constraint in alone]
        explanations = explanations or [explain(problem, constraints, domains)]
        reasons = max(explanations, key=lambda explanation: len(rejected_by(explanation)))
        rejected = rejected_by(reasons)
        yield Rejection(values=tuple(variable.values[index] for index in rejected), reasons=_reasons(reasons))
        left = [index for index in left if index not in rejected]


def _domains_with(best: _Best, level: int, index: int) -> Domains:
    """Return domains that fix this level and all more important levels, and leave the others open."""
    return [*([chosen] for chosen in best.assignment[:level]), [index], *best.domains[level + 1 :]]


# Explanation of a contradiction


def _contradiction(knowledge: Knowledge, requests: Sequence[Request]) -> Contradiction:
    core = list(requests)
    # Try to drop assumptions first and the machine last.
    order = sorted(
        core, key=lambda request: (not request.assumed, request.value is not None, _unimportance(request))
    )
    shrinking = True
    while shrinking:
        shrinking = False
        for request in order:
            rest = [other for other in core if other is not request]
            problem = Problem(knowledge, rest)
            if request in core and not _is_satisfiable(problem, problem.domains):
                core, shrinking = rest, True
    problem = Problem(knowledge, core)
    assert not _is_satisfiable(problem, problem.domains)
    reasons = explain(problem, problem.hard, problem.domains)
    facts = problem.forced_facts()
    clashes = tuple(_clash(problem, reason, facts) for reason in _reasons(reasons))
    return Contradiction(core=tuple(core), clashes=clashes)


def _unimportance(request: Request) -> tuple[int, str]:
    number, name = rank(request.fact)
    return -number, name


def _reasons(constraints: Iterable[Constraint]) -> tuple[Rule | Contents, ...]:
    """Return the reasons of the constraints without duplicates."""
    return tuple({constraint.reason.id: constraint.reason for constraint in constraints}.values())


def _clash(problem: Problem, reason: Rule | Contents, facts: Facts) -> Clash:
    if isinstance(reason, Rule):
        return Clash(reason=reason, facts={name: facts[name] for name in reason.facts if name in facts})
    return Clash(reason=reason, facts={}, provided=tuple(problem.provided(reason)))


def find_alternatives(
    knowledge: Knowledge, requests: Iterable[Request], found: Contradiction
) -> tuple[tuple[Request, Value], ...]:
    """Find, for each contradicting version request, the version that fits if the request is dropped."""
    alternatives = []
    for request in found.core:
        problem = Problem(knowledge, [other for other in requests if other.fact != request.fact])
        is_version = knowledge.vocabulary.facts[request.fact].kind == "version"
        best = _find_best(problem) if is_version else None
        if best is not None:
            value = derive(problem.stated(enumerate(best.assignment)), knowledge).get(request.fact)
            alternatives += [(request, value)] if value is not None else []
    return tuple(alternatives)
