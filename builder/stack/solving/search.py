"""The search: the first set of choices, in the order of their importance, that no constraint forbids.

What leaves one choice is settled first; then it goes back to the choice that is to blame rather than to the
last one (conflict-directed backjumping). It remembers which constraints were used, so that an answer of none
can be explained. Knows nothing of versions.
"""

import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.stack.solving.problem import Constraint, Contents, Problem

Places = tuple[int, ...]
Domains = Sequence[Sequence[int]]
_SMALL = 12  # choices few enough to be tried beside all of another thing before the search begins


@dataclass(frozen=True, slots=True)
class Outcome:
    """The choices, or None, and the constraints that were needed to say so."""

    places: Places | None
    used: frozenset[Constraint]


class _Search:
    """One walk through the choices; at most `bound` of the soft constraints may be broken."""

    def __init__(self, problem: Problem, domains: Domains, *, bound: int, learn: bool) -> None:
        self.problem, self.bound, self.learn = problem, bound, learn
        self.domains = [list(domain) for domain in domains]
        self.places = [domain[0] if domain else -1 for domain in domains]
        self.reasons: list[set[Constraint]] = [set() for _ in domains]  # why a domain is smaller than it was
        self.used: set[Constraint] = set()
        self.broken: list[Constraint] = []

    def run(self, hard: Sequence[Constraint], soft: Sequence[Constraint]) -> bool:
        if not self._settle(hard):
            return False
        # What is settled comes first, which leaves the order of the rest as it is.
        self.order = sorted(range(len(self.domains)), key=lambda level: len(self.domains[level]) > 1)
        self.hard, self.soft = self._by_step(hard), self._by_step(soft)
        return self._blame(0, -1) is None and self._extend(0) is None

    def _settle(self, hard: Sequence[Constraint]) -> bool:
        """Takes from each domain what nearly settled choices leave no room for; False if nothing is left."""
        if not all(self.domains):
            return False
        changed = True
        while changed:
            changed = False
            for constraint in hard:
                if not self._is_worth_it(constraint):
                    continue
                kept = self._supported(constraint)
                for level, places in zip(constraint.scope, kept, strict=True):
                    if len(places) < len(self.domains[level]):
                        changed = True
                        self.reasons[level] |= {constraint}.union(
                            *(self.reasons[o] for o in constraint.scope)
                        )
                        self.domains[level] = [place for place in self.domains[level] if place in places]
                        if not places:
                            self.used |= self.reasons[level]
                            return False
        self.places = [domain[0] for domain in self.domains]
        return True

    def _is_worth_it(self, constraint: Constraint) -> bool:
        """Whether trying everything costs little, or what is left of one thing decides about another."""
        sizes = sorted(len(self.domains[level]) for level in constraint.scope)
        if isinstance(constraint.reason, Contents):
            catalogues = (len(self.problem.variables[level].catalogue) for level in constraint.scope)
            return len(sizes) <= 2 and any(map(operator.lt, sizes, sorted(catalogues)))
        return bool(sizes) and max(sizes[:-1], default=1) <= _SMALL and sum(size > 1 for size in sizes) <= 2

    def _supported(self, constraint: Constraint) -> list[set[int]]:
        """For each choice that the constraint is about, what may be taken if the others are chosen well."""
        kept: list[set[int]] = [set() for _ in constraint.scope]
        for places in itertools.product(*(self.domains[level] for level in constraint.scope)):
            for level, place in zip(constraint.scope, places, strict=True):
                self.places[level] = place
            if not self.problem.forbids(constraint, self.places):
                for found, place in zip(kept, places, strict=True):
                    found.add(place)
        return kept

    def _by_step(self, constraints: Iterable[Constraint]) -> list[list[Constraint]]:
        """Constraints by the step after which all their choices are made; the first are about none."""
        step = {level: number + 1 for number, level in enumerate(self.order)}
        steps: list[list[Constraint]] = [[] for _ in range(len(self.order) + 1)]
        for constraint in constraints:
            steps[max((step[level] for level in constraint.scope), default=0)].append(constraint)
        return steps

    def _blame(self, step: int, level: int) -> frozenset[int] | None:
        """The other choices that forbid the one just made; None where nothing does."""
        for constraint in self.hard[step]:
            if self.problem.forbids(constraint, self.places):
                self.used.add(constraint)
                return frozenset(constraint.scope) - {level}
        self.broken += [c for c in self.soft[step] if self.problem.forbids(c, self.places)]
        if len(self.broken) > self.bound:
            self.used.update(self.broken)
            return frozenset(other for c in self.broken for other in c.scope) - {level}
        return None

    def _extend(self, step: int) -> frozenset[int] | None:
        """None when all choices from this step on are made, else the earlier ones that are to blame."""
        if step == len(self.order):
            learned = self.problem.learn(self.places) if self.learn else None
            if learned is None:
                return None
            for known, new in zip(self.hard, self._by_step([learned]), strict=True):
                known += new
            self.used.add(learned)
            return frozenset(learned.scope)
        level, so_far = self.order[step], len(self.broken)
        guilty: frozenset[int] = frozenset()
        for place in self.domains[level]:
            self.places[level] = place
            blamed = self._blame(step + 1, level)
            if blamed is None:
                blamed = self._extend(step + 1)
                if blamed is None:
                    return None
                if level not in blamed:
                    del self.broken[so_far:]
                    return blamed
            del self.broken[so_far:]
            guilty |= blamed - {level}
        self.used |= self.reasons[level]
        return guilty


def find_first(
    problem: Problem,
    *,
    hard: Sequence[Constraint],
    soft: Sequence[Constraint] = (),
    bound: int = 0,
    domains: Domains,
    learn: bool = False,
) -> Outcome:
    """The first choices in lexicographic order that break nothing hard and at most `bound` soft ones.

    With `learn`, the check is asked about the outcome and what it refuses becomes a constraint.
    """
    search = _Search(problem, domains, bound=bound, learn=learn)
    found = search.run(hard, soft)
    return Outcome(tuple(search.places) if found else None, frozenset(search.used))


def why_none(problem: Problem, constraints: Sequence[Constraint], domains: Domains) -> tuple[Constraint, ...]:
    """Some of `constraints`, none of them idle, that leave nothing to choose, as all together do."""
    kept = list(_used(problem, constraints, domains))
    for constraint in reversed(kept.copy()):
        without = [c for c in kept if c is not constraint]
        if forbidden(problem, without, domains):
            kept = without
    return tuple(kept)


def each_alone(
    problem: Problem, constraints: Sequence[Constraint], domains: Domains
) -> tuple[Constraint, ...]:
    """Those of `constraints` that leave nothing to choose all by themselves."""
    return tuple(c for c in _used(problem, constraints, domains) if forbidden(problem, [c], domains))


def forbidden(problem: Problem, constraints: Sequence[Constraint], domains: Domains) -> bool:
    """Whether the constraints leave nothing to choose."""
    return find_first(problem, hard=constraints, domains=domains).places is None


def _used(problem: Problem, constraints: Sequence[Constraint], domains: Domains) -> list[Constraint]:
    outcome = find_first(problem, hard=constraints, domains=domains)
    assert outcome.places is None
    return [c for c in constraints if c in outcome.used]
