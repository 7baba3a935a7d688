"""Search for the first assignment, in order of importance, that no constraint forbids.

Propagates constraints first, then searches with conflict-directed backjumping. Records the constraints that
it used, which explain why there is no assignment. Knows nothing about versions.
"""

import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.stack.solving.problem import Constraint, Contents, Problem

Assignment = tuple[int, ...]  # the index of a value for each level
Domains = Sequence[Sequence[int]]
_SMALL = 12  # domains up to this size are propagated by trying every combination


@dataclass(frozen=True, slots=True)
class Outcome:
    """The assignment, or None, and the constraints that the search used."""

    assignment: Assignment | None
    used: frozenset[Constraint]


class _Search:
    """A depth-first search in which at most `bound` soft constraints may be broken."""

    def __init__(self, problem: Problem, domains: Domains, *, bound: int, learn: bool) -> None:
        self.problem, self.bound, self.learn = problem, bound, learn
        self.domains = [list(domain) for domain in domains]
        self.assignment = [domain[0] if domain else -1 for domain in domains]
        self.reasons: list[set[Constraint]] = [set() for _ in domains]  # constraints that reduced a domain
        self.used: set[Constraint] = set()
        self.broken: list[Constraint] = []

    def run(self, hard: Sequence[Constraint], soft: Sequence[Constraint]) -> bool:
        if not self._propagate(hard):
            return False
        # Assign variables with a single value first; all others keep their order.
        self.order = sorted(range(len(self.domains)), key=lambda level: len(self.domains[level]) > 1)
        self.hard, self.soft = self._by_step(hard), self._by_step(soft)
        return self._conflict(0, -1) is None and self._assign_from(0) is None

    def _propagate(self, hard: Sequence[Constraint]) -> bool:
        """Remove values that a constraint forbids in every combination; return False if a domain is empty."""
        if not all(self.domains):
            return False
        changed = True
        while changed:
            changed = False
            for constraint in hard:
                if not self._is_cheap(constraint):
                    continue
                supported = self._supported(constraint)
                for level, indexes in zip(constraint.scope, supported, strict=True):
                    if len(indexes) < len(self.domains[level]):
                        changed = True
                        self.reasons[level] |= {constraint}.union(
                            *(self.reasons[o] for o in constraint.scope)
                        )
                        self.domains[level] = [index for index in self.domains[level] if index in indexes]
                        if not indexes:
                            self.used |= self.reasons[level]
                            return False
        self.assignment = [domain[0] for domain in self.domains]
        return True

    def _is_cheap(self, constraint: Constraint) -> bool:
        """True if the constraint has few combinations; for Contents, if one of its domains was reduced."""
        sizes = sorted(len(self.domains[level]) for level in constraint.scope)
        if isinstance(constraint.reason, Contents):
            full = (len(self.problem.variables[level].values) for level in constraint.scope)
            return len(sizes) <= 2 and any(map(operator.lt, sizes, sorted(full)))
        return bool(sizes) and max(sizes[:-1], default=1) <= _SMALL and sum(size > 1 for size in sizes) <= 2

    def _supported(self, constraint: Constraint) -> list[set[int]]:
        """Return the value indexes that occur in permitted combinations, for each variable in the scope."""
        supported: list[set[int]] = [set() for _ in constraint.scope]
        for indexes in itertools.product(*(self.domains[level] for level in constraint.scope)):
            for level, index in zip(constraint.scope, indexes, strict=True):
                self.assignment[level] = index
            if not self.problem.forbids(constraint, self.assignment):
                for found, index in zip(supported, indexes, strict=True):
                    found.add(index)
        return supported

    def _by_step(self, constraints: Iterable[Constraint]) -> list[list[Constraint]]:
        """Group constraints by the step that assigns the last variable of their scope (0: empty scope)."""
        step = {level: number + 1 for number, level in enumerate(self.order)}
        steps: list[list[Constraint]] = [[] for _ in range(len(self.order) + 1)]
        for constraint in constraints:
            steps[max((step[level] for level in constraint.scope), default=0)].append(constraint)
        return steps

    def _conflict(self, step: int, level: int) -> frozenset[int] | None:
        """Return the other levels that conflict with the choice at `level`; None if there is no conflict."""
        for constraint in self.hard[step]:
            if self.problem.forbids(constraint, self.assignment):
                self.used.add(constraint)
                return frozenset(constraint.scope) - {level}
        self.broken += [c for c in self.soft[step] if self.problem.forbids(c, self.assignment)]
        if len(self.broken) > self.bound:
            self.used.update(self.broken)
            return frozenset(other for c in self.broken for other in c.scope) - {level}
        return None

    def _assign_from(self, step: int) -> frozenset[int] | None:
        """Assign all levels from this step on; return the earlier levels in conflict, or None on success."""
        if step == len(self.order):
            learned = self.problem.learn(self.assignment) if self.learn else None
            if learned is None:
                return None
            for known, new in zip(self.hard, self._by_step([learned]), strict=True):
                known += new
            self.used.add(learned)
            return frozenset(learned.scope)
        level, broken_before = self.order[step], len(self.broken)
        conflicts: frozenset[int] = frozenset()
        for index in self.domains[level]:
            self.assignment[level] = index
            conflict = self._conflict(step + 1, level)
            if conflict is None:
                conflict = self._assign_from(step + 1)
                if conflict is None:
                    return None
                if level not in conflict:
                    del self.broken[broken_before:]
                    return conflict
            del self.broken[broken_before:]
            conflicts |= conflict - {level}
        self.used |= self.reasons[level]
        return conflicts


def find_first(
    problem: Problem,
    *,
    hard: Sequence[Constraint],
    soft: Sequence[Constraint] = (),
    bound: int = 0,
    domains: Domains,
    learn: bool = False,
) -> Outcome:
    """Find the lexicographically first assignment that breaks no hard and at most `bound` soft constraints.

    With `learn`, checks each complete assignment against all rules and adds constraints for errors.
    """
    search = _Search(problem, domains, bound=bound, learn=learn)
    found = search.run(hard, soft)
    return Outcome(tuple(search.assignment) if found else None, frozenset(search.used))


def explain(problem: Problem, constraints: Sequence[Constraint], domains: Domains) -> tuple[Constraint, ...]:
    """Reduce unsatisfiable `constraints` to a minimal unsatisfiable subset."""
    kept = list(_used(problem, constraints, domains))
    for constraint in reversed(kept.copy()):
        without = [c for c in kept if c is not constraint]
        if is_unsatisfiable(problem, without, domains):
            kept = without
    return tuple(kept)


def sufficient_alone(
    problem: Problem, constraints: Sequence[Constraint], domains: Domains
) -> tuple[Constraint, ...]:
    """Return each used constraint that is unsatisfiable by itself."""
    used = _used(problem, constraints, domains)
    return tuple(c for c in used if is_unsatisfiable(problem, [c], domains))


def is_unsatisfiable(problem: Problem, constraints: Sequence[Constraint], domains: Domains) -> bool:
    return find_first(problem, hard=constraints, domains=domains).assignment is None


def _used(problem: Problem, constraints: Sequence[Constraint], domains: Domains) -> list[Constraint]:
    outcome = find_first(problem, hard=constraints, domains=domains)
    assert outcome.assignment is None
    return [c for c in constraints if c in outcome.used]
