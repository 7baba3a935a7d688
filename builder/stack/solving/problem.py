"""A question to the solver as variables and constraints: what to choose, from what, and what forbids it.

Knows nothing of the order in which choices are tried.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from builder.stack.checking import broken
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge, Release
from builder.stack.rules import Clause, Rule
from builder.stack.solving.ask import Request, known_versions, twin_of
from builder.stack.solving.needs import needed
from builder.stack.versions import Version
from builder.stack.vocabulary import Facts, Value

# What decides more about a cluster is chosen first, the rest by name.
IMPORTANCE = (
    *("torch", "torch_neuronx", "neuron_sdk", "cuda", "nvidia_driver", "nvidia_driver_flavor"),
    *("nccl", "efa", "efa_kmod", "aws_ofi_nccl"),
)
# Facts that derive.py reads off two choices at once; all others show when one choice is made.
_JOINT = {"nvidia_driver_below_bundled": ("nvidia_driver", "cuda")}

Choice = Version | str | None  # None: comes with something else, in a version that nobody has read


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One thing to choose: all that the catalogue has, best first, and the places of what may be taken."""

    fact: str
    catalogue: tuple[Choice, ...]
    allowed: tuple[int, ...]
    request: Request | None = None
    carriers: tuple[str, ...] = ()  # what brings or offers it


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A component comes in the version that another one brings, or in one of those that it offers."""

    fact: str
    carriers: tuple[str, ...]
    request: Request | None = None  # what was asked for where the component is no choice of its own

    @property
    def id(self) -> str:
        return f"{self.fact} of {', '.join(self.carriers)}"


@dataclass(eq=False)
class Constraint:
    """One reason that forbids combinations of choices, with the verdicts that were asked for so far."""

    reason: Rule | Contents
    scope: tuple[int, ...]
    test: Rule | None = None  # as much of a rule as can be told on this scope
    verdicts: dict[tuple[int, ...], bool] = field(default_factory=dict, repr=False)

    @property
    def hard(self) -> bool:
        return not isinstance(self.reason, Rule) or self.reason.severity == "error"


class Problem:
    """Variables in the order of their importance, constraints over them, and what is given."""

    def __init__(self, knowledge: Knowledge, requests: Iterable[Request]) -> None:
        self.knowledge = knowledge
        self.known = known_versions(knowledge)
        self.requests = {request.fact: request for request in requests}
        self.given: dict[str, Value] = {
            request.fact: request.value
            for request in self.requests.values()
            if request.value is not None and request.value not in self.known.get(request.fact, ())
        }
        self._follows = derive(self.given, knowledge)
        asked = {name for name in self.requests if knowledge.vocabulary.facts[name].kind == "version"}
        some = {name: self.known[name][0] for name in asked & self.known.keys() - self.given.keys()}
        self.needed = needed(knowledge, {**self._follows, **some}, asked)
        # What somebody wants chosen is open, whatever would follow without that.
        open_ = self.requests.keys() - self.given.keys()
        self.base = {name: value for name, value in self._follows.items() if name not in open_}
        self.twins = self._twins()
        self.base |= {name: self.base[twin] for name, twin in self.twins.items() if twin in self.base}
        self._decided_by: dict[str, set[str]] = {}  # fact → the choices that it follows from
        self._effects: dict[tuple[str, Value], Facts] = {}  # what one choice alone brings about
        self.variables = self._choose()
        self.level = {variable.fact: level for level, variable in enumerate(self.variables)}
        self._joint = frozenset({*_JOINT, *knowledge.derived})
        constraints = list(self._constraints())
        self.hard = [c for c in constraints if c.hard]
        self.soft = [c for c in constraints if not c.hard]

    @property
    def allowed(self) -> list[tuple[int, ...]]:
        """For each choice the places of what may be taken."""
        return [variable.allowed for variable in self.variables]

    @property
    def read(self) -> list[tuple[int, ...]]:
        """The same without what would be in a version that nobody has read."""
        return [
            tuple(place for place in variable.allowed if variable.catalogue[place] is not None)
            for variable in self.variables
        ]

    # What there is to choose

    def _twins(self) -> dict[str, str]:
        """Components of no release of their own that take the version of another one."""
        found = {}
        for name in sorted(self.needed):
            if name not in self.known and name not in self.requests and name not in self.base:
                twin = twin_of(self.knowledge, name)
                if twin:
                    found[name] = twin
        return found

    def _choose(self) -> tuple[Variable, ...]:
        names = sorted(self.needed - self.base.keys() - self.twins.keys(), key=rank)
        catalogues = {name: catalogue for name in names if (catalogue := self._catalogue(name))}
        for name, catalogue in catalogues.items():
            if name not in self.requests and name in self.known and not self._releases(name):
                continue  # comes with others and decides nothing by itself
            for value in catalogue:
                effects = self._alone(name, value)
                for fact in effects.keys() - {name}:
                    self._decided_by.setdefault(fact, set()).add(name)
        found = (self._variable(name, catalogue, catalogues) for name, catalogue in catalogues.items())
        return tuple(variable for variable in found if variable is not None)

    def _catalogue(self, name: str) -> tuple[Version | str, ...]:
        fact = self.knowledge.vocabulary.facts[name]
        if fact.kind == "word":
            return fact.one_of
        return self.known.get(name) or self.known.get(twin_of(self.knowledge, name), ())

    def _variable(
        self, name: str, catalogue: Sequence[Choice], catalogues: Mapping[str, object]
    ) -> Variable | None:
        """What is to choose about a component; None where it follows from others or cannot be known."""
        request = self.requests.get(name)
        carriers = [other for other in catalogues if other != name and self._carries(other, name)]
        own = bool(self.knowledge.releases.get(name)) or not isinstance(catalogue[0], Version)
        if request and request.value is not None:
            carriers = []  # it is so, whatever others bring
        elif carriers:
            offered = any(name in release.offers for other in carriers for release in self._releases(other))
            if not own and not offered and all(rank(other) < rank(name) for other in carriers):
                return None
        elif not (own or request or self._is_on_host(name)) or (self._is_hidden(name) and not request):
            return None
        if carriers and not request:
            catalogue = (*catalogue, None)
        allowed = [
            place
            for place, value in enumerate(catalogue)
            if request is None
            or (isinstance(value, Version) and request.allows(value))
            or value == request.value
        ]
        return Variable(
            fact=name,
            catalogue=tuple(catalogue),
            allowed=tuple(allowed),
            request=request,
            carriers=tuple(carriers),
        )

    def _carries(self, carrier: str, name: str) -> bool:
        brought = carrier in self._decided_by.get(name, ())
        return brought or any(name in release.offers for release in self._releases(carrier))

    def _is_hidden(self, name: str) -> bool:
        """Whether it comes with something stated in a version that the catalogue does not list."""
        apart = self._is_on_host(name) and self.base.get("kind") != "ami"
        stated = [release for other in self.given for release in self._releases(other)]
        return not apart and any(name in release.contents for release in stated)

    def _is_on_host(self, name: str) -> bool:
        return self.knowledge.vocabulary.facts[name].side == "host"

    def _releases(self, name: str) -> tuple[Release, ...]:
        return self.knowledge.releases.get(name, ())

    # What forbids choices

    def _constraints(self) -> Iterable[Constraint]:
        for name in sorted(self.needed):
            level = self.level.get(name)
            carriers = self.carriers_of(name)
            if level is not None and self.variables[level].carriers:
                reason = Contents(fact=name, carriers=self.variables[level].carriers)
                scope = {level, *(self.level[other] for other in reason.carriers)}
                yield Constraint(reason, tuple(sorted(scope)))
            elif level is None and name in self.requests and name not in self.given and carriers:
                reason = Contents(fact=name, carriers=carriers, request=self.requests[name])
                yield Constraint(reason, tuple(sorted(self._levels(name))))
        for rule in self.knowledge.rules:
            if rule.severity in ("error", "warning") and rule.fires(self.base) is not False:
                yield from self._rule(rule)

    def _rule(self, rule: Rule) -> Iterable[Constraint]:
        """What a rule forbids, each of its requirements apart: they are broken one by one.

        A warning stays whole, so that it counts once.
        """
        parts: Iterable[tuple[Clause, ...]] = [rule.require]
        if rule.severity == "error" and rule.require:
            parts = [(clause,) for clause in rule.require]
        for part in parts:
            test = replace(rule, require=part)
            levels = {name: self._levels(name) for name in test.facts}
            if rule.severity == "warning" or all(levels[name] or name in self.base for name in levels):
                yield Constraint(rule, tuple(sorted(set().union(*levels.values()))), test)

    def _levels(self, name: str) -> set[int]:
        """The choices that decide a fact."""
        if name in self.level:
            return {self.level[name]}
        if name in self.base:
            return set()
        below = {self.twins[name]} if name in self.twins else set()
        below |= self._decided_by.get(name, set()) | set(_JOINT.get(name, ()))
        derived = self.knowledge.derived.get(name)
        if derived is not None:
            clauses = [c for alternative in (*derived.true_if, *derived.false_if) for c in alternative]
            below |= {fact for clause in clauses for fact in clause.facts}
        return set().union(*(self._levels(other) for other in below - {name}))

    def learn(self, places: Sequence[int]) -> Constraint | None:
        """A constraint for an error that all choices together bring and that no constraint knew about.

        The check has the last word, should a rule depend on more choices than could be foreseen.
        """
        chosen = list(enumerate(places))
        errors = broken(self.knowledge, self.stated(chosen))
        for rule in self.knowledge.rules:
            if rule.id in errors:
                for choice in chosen.copy():
                    fewer = [other for other in chosen if other is not choice]
                    if rule.fires(self.facts(fewer)):
                        chosen = fewer
                self.hard.append(Constraint(rule, tuple(level for level, _ in chosen), rule))
                return self.hard[-1]
        return None

    def forbids(self, constraint: Constraint, places: Sequence[int]) -> bool:
        """Whether the constraint speaks against these choices (a place in the catalogue for each level)."""
        key = tuple(places[level] for level in constraint.scope)
        verdict = constraint.verdicts.get(key)
        if verdict is None:
            chosen = tuple(zip(constraint.scope, key, strict=True))
            verdict = constraint.verdicts[key] = self._judge(constraint, chosen)
        return verdict

    def _judge(self, constraint: Constraint, chosen: tuple[tuple[int, int], ...]) -> bool:
        reason, rule = constraint.reason, constraint.test
        if rule is not None or isinstance(reason, Rule):
            assert rule is not None
            jointly = rule is reason or any(name in self._joint for name in rule.facts)
            return rule.fires(self.facts(chosen, jointly=jointly)) is True
        facts = self.facts(chosen, jointly=False)
        if reason.request is not None:
            value = facts.get(reason.fact)
            return not (isinstance(value, Version) and reason.request.allows(value))
        level = self.level[reason.fact]
        return not self._comes(reason, facts, self.variables[level].catalogue[dict(chosen)[level]])

    def _comes(self, reason: Contents, facts: Facts, value: Choice) -> bool:
        """Whether the chosen carriers leave a component in this version, or in an unknown one."""
        name = reason.fact
        releases = [
            (other, release)
            for other in reason.carriers
            if (release := self.knowledge.release(other, facts.get(other))) is not None
        ]
        brought = [
            r.contents[name] for other, r in releases if name in r.contents and self._decides(other, name)
        ]
        if brought:
            return all(value == version for version in brought)
        offers = [release.offers[name] for _, release in releases if name in release.offers]
        if offers:
            return all(value in choice for choice in offers)
        apart = bool(releases) and all(self._predates(other, release, name) for other, release in releases)
        return (value is not None) == apart

    def _decides(self, carrier: str, name: str) -> bool:
        return carrier in self._decided_by.get(name, ())

    def _predates(self, carrier: str, release: Release, name: str) -> bool:
        """Whether a release is from before the component came with it, so that it is installed by itself."""
        facts = self.knowledge.vocabulary.facts
        first = min((r.version for r in self._releases(carrier) if name in r.contents), default=None)
        own = bool(self._releases(name)) and facts[name].side == facts[carrier].side
        return own and first is not None and release.version < first

    def carriers_of(self, name: str) -> tuple[str, ...]:
        """The choices that decide a fact which is no choice itself."""
        return tuple(sorted(self._decided_by.get(name, ()), key=rank))

    def brings(self, carrier: str, facts: Facts, name: str) -> bool:
        """Whether the release of `carrier` that is in `facts` brings `name`, in one version and no other."""
        release = self.knowledge.release(carrier, facts.get(carrier))
        return release is not None and name in release.contents and self._decides(carrier, name)

    def brought(self, reason: Contents) -> Iterable[tuple[str, Version, tuple[Version, ...]]]:
        """What the allowed releases of the carriers have of a component: carrier, release, versions."""
        for carrier in reason.carriers:
            variable = self.variables[self.level[carrier]]
            for place in variable.allowed:
                version = variable.catalogue[place]
                release = self.knowledge.release(carrier, version)
                if release is not None and reason.fact in release.contents:
                    yield carrier, release.version, (release.contents[reason.fact],)
                elif release is not None and reason.fact in release.offers:
                    yield carrier, release.version, release.offers[reason.fact]

    def settled(self) -> dict[str, Value]:
        """What is known where each request leaves one choice."""
        return self.facts((n, v.allowed[0]) for n, v in enumerate(self.variables) if len(v.allowed) == 1)

    def facts(self, chosen: Iterable[tuple[int, int]], *, jointly: bool = True) -> dict[str, Value]:
        """What is known when these choices (level, place) are made and no other.

        Not `jointly` leaves out what follows only from several choices together, and is much faster.
        """
        if jointly:
            return derive(self.stated(chosen), self.knowledge)
        facts, stated = dict(self.base), self.stated(chosen)
        for name, value in stated.items():
            if name not in self.given:
                facts.update(self._alone(name, value))
        facts.update(stated)
        return facts

    def _alone(self, name: str, value: Value) -> Facts:
        effects = self._effects.get((name, value))
        if effects is None:
            facts = derive({**self.given, name: value}, self.knowledge)
            effects = {fact: known for fact, known in facts.items() if self._follows.get(fact) != known}
            self._effects[name, value] = effects
        return effects

    def stated(self, chosen: Iterable[tuple[int, int]]) -> dict[str, Value]:
        stated = dict(self.given)
        for level, place in chosen:
            value = self.variables[level].catalogue[place]
            if value is not None:
                stated[self.variables[level].fact] = value
        for name, twin in self.twins.items():
            if twin in stated:
                stated[name] = stated[twin]
        return stated


def rank(name: str) -> tuple[int, str]:
    """Sorts facts by their importance."""
    return (IMPORTANCE.index(name) if name in IMPORTANCE else len(IMPORTANCE), name)
