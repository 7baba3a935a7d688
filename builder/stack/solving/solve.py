"""The newest set of versions that fits a machine and what was asked for, or why there is none.

No error-level rule fires; if possible nothing is in a version that nobody has read; of such sets those with
the fewest warnings; of these the one that is newest where it matters most (`solve_problem.IMPORTANCE`). Pure,
and the same answer for the same question.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.stack.checking import Result, check
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Clause, Finding, Rule, all_of
from builder.stack.solving.ask import Request, assume
from builder.stack.solving.problem import Choice, Constraint, Contents, Problem, rank
from builder.stack.solving.search import Domains, Places, each_alone, find_first, forbidden, why_none
from builder.stack.versions import Version
from builder.stack.vocabulary import Facts, Value

Reason = Rule | Contents | Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Better choices that were not taken, best first, and what together speaks against them."""

    values: tuple[Choice, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing of the set: its version (None: nobody has read which) and where that comes from."""

    fact: str
    value: Value | None
    request: Request | None = None
    comes_with: tuple[str, ...] = ()  # what brings it
    twin: str = ""  # the one whose version it has to have
    held: tuple[Held, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What a rule wants that is no choice of a version, and that nobody has said: it has to be seen to."""

    rule: Rule
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """A set that fits, with the reason for every version."""

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
    """One reason why requests contradict each other, and what is known of the things it speaks about."""

    reason: Rule | Contents
    facts: Facts
    brought: tuple[tuple[str, Version, tuple[Version, ...]], ...] = ()  # carrier, its release, what that has


@dataclass(frozen=True, kw_only=True, slots=True)
class Contradiction:
    """Requests of which none can be left out, or the rest fits; and the rules by which they clash."""

    core: tuple[Request, ...]
    clashes: tuple[Clash, ...]


def complete(knowledge: Knowledge, requests: Iterable[Request]) -> tuple[Request, ...]:
    """The requests and what is taken for granted with them."""
    requests = tuple(requests)
    return (*requests, *assume(knowledge, requests, Problem(knowledge, requests).needed))


def solve(knowledge: Knowledge, requests: Iterable[Request]) -> Solution | Contradiction:
    """The best set for exactly these requests."""
    requests = tuple(sorted(requests, key=_importance))
    problem = Problem(knowledge, requests)
    best = _best(problem)
    if best is None:
        return _contradiction(knowledge, requests)
    stated = problem.stated(enumerate(best.places))
    result = check(knowledge, stated)
    return Solution(
        requests=requests,
        rows=tuple(_rows(problem, best, result.facts)),
        stated=stated,
        result=result,
        conditions=tuple(_conditions(result)),
    )


def _importance(request: Request) -> tuple[bool, bool, bool, tuple[int, str]]:
    """The machine, what was stated, what was to be chosen, and last what was only assumed."""
    return (request.assumed, request.value is None, request.fact != "instance", rank(request.fact))


@dataclass(frozen=True, slots=True)
class _Best:
    """The choices, and among what they were made."""

    places: Places
    domains: Domains


def _fits(problem: Problem, domains: Domains) -> bool:
    """Whether anything fits; the problem has learned what only the check knew."""
    return find_first(problem, hard=problem.hard, domains=domains, learn=True).places is not None


def _best(problem: Problem) -> _Best | None:
    """The newest of the sets with the fewest warnings.

    What nobody has read is taken only where nothing else fits: that a rule cannot be decided is no merit.
    """
    domains = next((one for one in (problem.read, problem.allowed) if _fits(problem, one)), None)
    if domains is None:
        return None
    found, bound = None, _unavoidable(problem, domains)
    while found is None:
        found = find_first(
            problem, hard=problem.hard, soft=problem.soft, bound=bound, domains=domains, learn=True
        ).places
        bound += 1
    return _Best(found, domains)


def _unavoidable(problem: Problem, domains: Domains) -> int:
    """How many warnings there are at least: of each group found here one remains, whatever is chosen."""
    groups, left = 0, list(problem.soft)
    while (outcome := find_first(problem, hard=(*problem.hard, *left), domains=domains)).places is None:
        groups, left = groups + 1, [constraint for constraint in left if constraint not in outcome.used]
    return groups


def _conditions(result: Result) -> Iterable[Condition]:
    for rule in result.undecided:
        applies = all_of(clause.holds(result.facts, if_absent=False) for clause in rule.when)
        if rule.severity == "error" and applies:
            unknown = (c for c in rule.require if c.holds(result.facts, if_absent=True) is None)
            yield Condition(rule=rule, clauses=tuple(unknown))


# Why this version


def _rows(problem: Problem, best: _Best, facts: Facts) -> Iterable[Row]:
    """Everything that was chosen or has a version, by importance."""
    rows = {
        variable.fact: _chosen(problem, best, level, facts)
        for level, variable in enumerate(problem.variables)
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
                comes_with=problem.carriers_of(name),
            )
    return sorted(rows.values(), key=lambda row: rank(row.fact))


def _chosen(problem: Problem, best: _Best, level: int, facts: Facts) -> Row:
    variable = problem.variables[level]
    value = variable.catalogue[best.places[level]]
    carriers = tuple(c for c in variable.carriers if value is None or problem.brings(c, facts, variable.fact))
    return Row(
        fact=variable.fact,
        value=value,
        request=variable.request,
        comes_with=carriers,
        held=() if carriers else tuple(_held(problem, best, level)),
    )


def _held(problem: Problem, best: _Best, level: int) -> Iterable[Held]:
    """Why nothing better was taken, in as few groups as there are reasons."""
    variable = problem.variables[level]
    better = range(best.places[level])
    excluded = tuple(variable.catalogue[place] for place in better if place not in variable.allowed)
    if excluded and variable.request is not None:
        yield Held(values=excluded, reasons=(variable.request,))
    # Warnings that this set has anyway keep nothing back.
    constraints = [*problem.hard, *(c for c in problem.soft if not problem.forbids(c, best.places))]
    left = [place for place in better if place in variable.allowed]

    def covered(reasons: Sequence[Constraint]) -> list[int]:
        return [p for p in left if forbidden(problem, reasons, _instead(best, level, p))]

    while left:
        domains = _instead(best, level, left[0])
        alone = each_alone(problem, constraints, domains)
        choices: list[tuple[Constraint, ...]] = [(one,) for one in alone]
        choices = choices or [why_none(problem, constraints, domains)]
        reasons = max(choices, key=lambda choice: len(covered(choice)))
        held = covered(reasons)
        yield Held(values=tuple(variable.catalogue[place] for place in held), reasons=_reasons(reasons))
        left = [place for place in left if place not in held]


def _instead(best: _Best, level: int, place: int) -> Domains:
    """Everything more important as it is, `place` here, and the rest open."""
    return [*([settled] for settled in best.places[:level]), [place], *best.domains[level + 1 :]]


# Why none


def _contradiction(knowledge: Knowledge, requests: Sequence[Request]) -> Contradiction:
    core = list(requests)
    # What is assumed should not be blamed where requests alone clash; the machine is the last to be left out.
    order = sorted(core, key=lambda request: (not request.assumed, request.value is not None, _last(request)))
    shrinking = True
    while shrinking:
        shrinking = False
        for request in order:
            rest = [other for other in core if other is not request]
            problem = Problem(knowledge, rest)
            if request in core and not _fits(problem, problem.allowed):
                core, shrinking = rest, True
    problem = Problem(knowledge, core)
    assert not _fits(problem, problem.allowed)
    reasons = why_none(problem, problem.hard, problem.allowed)
    facts = problem.settled()
    clashes = tuple(_clash(problem, reason, facts) for reason in _reasons(reasons))
    return Contradiction(core=tuple(core), clashes=clashes)


def _last(request: Request) -> tuple[int, str]:
    number, name = rank(request.fact)
    return -number, name


def _reasons(constraints: Iterable[Constraint]) -> tuple[Rule | Contents, ...]:
    """Each once, though several of its requirements may be at work."""
    return tuple({constraint.reason.id: constraint.reason for constraint in constraints}.values())


def _clash(problem: Problem, reason: Rule | Contents, facts: Facts) -> Clash:
    if isinstance(reason, Rule):
        return Clash(reason=reason, facts={name: facts[name] for name in reason.facts if name in facts})
    return Clash(reason=reason, facts={}, brought=tuple(problem.brought(reason)))


def ways_out(
    knowledge: Knowledge, requests: Iterable[Request], found: Contradiction
) -> tuple[tuple[Request, Value], ...]:
    """For versions that were asked for in vain: which one it would be if that was left open."""
    ways = []
    for request in found.core:
        problem = Problem(knowledge, [other for other in requests if other.fact != request.fact])
        is_version = knowledge.vocabulary.facts[request.fact].kind == "version"
        best = _best(problem) if is_version else None
        if best is not None:
            value = derive(problem.stated(enumerate(best.places)), knowledge).get(request.fact)
            ways += [(request, value)] if value is not None else []
    return tuple(ways)
