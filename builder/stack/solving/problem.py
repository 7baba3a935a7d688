"""Translate requests into a constraint problem: variables, their values and the constraints over them.

Knows nothing about the search. The level of a variable is its position in the order of importance; a choice
is a pair of a level and the index of a value; an assignment has one index for every level.
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

# Versions that decide most about a cluster come first; the rest follow by name.
IMPORTANCE = (
    *("torch", "torch_neuronx", "neuron_sdk", "cuda", "nvidia_driver", "nvidia_driver_flavor"),
    *("nccl", "efa", "efa_kmod", "aws_ofi_nccl"),
)
# Facts that derive.py computes from two choices; all other facts follow from a single choice.
_JOINT = {"nvidia_driver_below_bundled": ("nvidia_driver", "cuda")}

Candidate = Version | str | None  # None: provided by another component in an unknown version
Choice = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A fact to choose: its values in the catalog, best first, and the indexes of the allowed values."""

    fact: str
    values: tuple[Candidate, ...]
    allowed: tuple[int, ...]
    request: Request | None = None
    providers: tuple[str, ...] = ()  # components that bring or offer it


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The requirement that a component has a version that its providers bring or offer."""

    fact: str
    providers: tuple[str, ...]
    request: Request | None = None  # set if the component is not a variable of its own

    @property
    def id(self) -> str:
        return f"{self.fact} of {', '.join(self.providers)}"


@dataclass(eq=False)
class Constraint:
    """A rule or requirement that forbids combinations of choices, with a cache of its verdicts."""

    reason: Rule | Contents
    scope: tuple[int, ...]  # levels
    test: Rule | None = None  # the rule, reduced to the requirements that this scope decides
    verdicts: dict[tuple[int, ...], bool] = field(default_factory=dict, repr=False)

    @property
    def hard(self) -> bool:
        return not isinstance(self.reason, Rule) or self.reason.severity == "error"


class Problem:
    """The constraint problem: variables by importance, constraints over them, and the given facts."""

    def __init__(self, knowledge: Knowledge, requests: Iterable[Request]) -> None:
        self.knowledge = knowledge
        self.known = known_versions(knowledge)
        self.requests = {request.fact: request for request in requests}
        self.given: dict[str, Value] = {
            request.fact: request.value
            for request in self.requests.values()
            if request.value is not None and request.value not in self.known.get(request.fact, ())
        }
        self._implied = derive(self.given, knowledge)
        asked = {name for name in self.requests if knowledge.vocabulary.facts[name].kind == "version"}
        samples = {name: self.known[name][0] for name in asked & self.known.keys() - self.given.keys()}
        self.needed = needed(knowledge, {**self._implied, **samples}, asked)
        # A requested component stays a variable, even if the given facts imply a value.
        open_ = self.requests.keys() - self.given.keys()
        self.base = {name: value for name, value in self._implied.items() if name not in open_}
        self.twins = self._twins()
        self.base |= {name: self.base[twin] for name, twin in self.twins.items() if twin in self.base}
        self._decided_by: dict[str, set[str]] = {}  # fact → variables that it follows from
        self._effects: dict[tuple[str, Value], Facts] = {}
        self.variables = self._variables()
        self.level = {variable.fact: level for level, variable in enumerate(self.variables)}
        self._joint = frozenset({*_JOINT, *knowledge.derived})
        constraints = list(self._constraints())
        self.hard = [c for c in constraints if c.hard]
        self.soft = [c for c in constraints if not c.hard]

    @property
    def domains(self) -> list[tuple[int, ...]]:
        """The allowed indexes of each variable."""
        return [variable.allowed for variable in self.variables]

    @property
    def known_domains(self) -> list[tuple[int, ...]]:
        """The allowed indexes of each variable, without the index of the unknown version."""
        return [
            tuple(index for index in variable.allowed if variable.values[index] is not None)
            for variable in self.variables
        ]

    # Variables

    def _twins(self) -> dict[str, str]:
        """Map components without releases of their own to the fact whose version they must equal."""
        found = {}
        for name in sorted(self.needed):
            if name not in self.known and name not in self.requests and name not in self.base:
                twin = twin_of(self.knowledge, name)
                if twin:
                    found[name] = twin
        return found

    def _variables(self) -> tuple[Variable, ...]:
        names = sorted(self.needed - self.base.keys() - self.twins.keys(), key=rank)
        values_of = {name: values for name in names if (values := self._values(name))}
        for name, values in values_of.items():
            if name not in self.requests and name in self.known and not self._releases(name):
                continue  # comes with other components, so no fact follows from it
            for value in values:
                for fact in self._effects_of(name, value).keys() - {name}:
                    self._decided_by.setdefault(fact, set()).add(name)
        found = (self._variable(name, values, values_of) for name, values in values_of.items())
        return tuple(variable for variable in found if variable is not None)

    def _values(self, name: str) -> tuple[Version | str, ...]:
        fact = self.knowledge.vocabulary.facts[name]
        if fact.kind == "word":
            return fact.one_of
        return self.known.get(name) or self.known.get(twin_of(self.knowledge, name), ())

    def _variable(
        self, name: str, values: Sequence[Candidate], others: Mapping[str, object]
    ) -> Variable | None:
        """Return the variable for a component; None if its version is unknown or follows from other facts."""
        request = self.requests.get(name)
        providers = [other for other in others if other != name and self._provides(other, name)]
        own = bool(self.knowledge.releases.get(name)) or not isinstance(values[0], Version)
        if request and request.value is not None:
            providers = []  # a stated version overrides the versions that providers bring
        elif providers:
            offered = any(name in release.offers for other in providers for release in self._releases(other))
            if not own and not offered and all(rank(other) < rank(name) for other in providers):
                return None
        elif not (own or request or self._is_on_host(name)) or (self._is_hidden(name) and not request):
            return None
        if providers and not request:
            values = (*values, None)
        allowed = [
            index
            for index, value in enumerate(values)
            if request is None
            or (isinstance(value, Version) and request.allows(value))
            or value == request.value
        ]
        return Variable(
            fact=name,
            values=tuple(values),
            allowed=tuple(allowed),
            request=request,
            providers=tuple(providers),
        )

    def _provides(self, provider: str, name: str) -> bool:
        brought = provider in self._decided_by.get(name, ())
        return brought or any(name in release.offers for release in self._releases(provider))

    def _is_hidden(self, name: str) -> bool:
        """True if `name` comes with a component that was requested in a version outside the catalog."""
        apart = self._is_on_host(name) and self.base.get("kind") != "ami"
        stated = [release for other in self.given for release in self._releases(other)]
        return not apart and any(name in release.contents for release in stated)

    def _is_on_host(self, name: str) -> bool:
        return self.knowledge.vocabulary.facts[name].side == "host"

    def _releases(self, name: str) -> tuple[Release, ...]:
        return self.knowledge.releases.get(name, ())

    # Constraints

    def _constraints(self) -> Iterable[Constraint]:
        for name in sorted(self.needed):
            level = self.level.get(name)
            providers = self.providers_of(name)
            if level is not None and self.variables[level].providers:
                reason = Contents(fact=name, providers=self.variables[level].providers)
                scope = {level, *(self.level[other] for other in reason.providers)}
                yield Constraint(reason, tuple(sorted(scope)))
            elif level is None and name in self.requests and name not in self.given and providers:
                reason = Contents(fact=name, providers=providers, request=self.requests[name])
                yield Constraint(reason, tuple(sorted(self._levels(name))))
        for rule in self.knowledge.rules:
            if rule.severity in ("error", "warning") and rule.fires(self.base) is not False:
                yield from self._rule(rule)

    def _rule(self, rule: Rule) -> Iterable[Constraint]:
        """Yield a constraint per requirement of an error rule, or one constraint for a warning rule."""
        parts: Iterable[tuple[Clause, ...]] = [rule.require]
        if rule.severity == "error" and rule.require:
            parts = [(clause,) for clause in rule.require]
        for part in parts:
            test = replace(rule, require=part)
            levels = {name: self._levels(name) for name in test.facts}
            if rule.severity == "warning" or all(levels[name] or name in self.base for name in levels):
                yield Constraint(rule, tuple(sorted(set().union(*levels.values()))), test)

    def _levels(self, name: str) -> set[int]:
        """Return the levels of the variables that determine a fact."""
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

    def learn(self, assignment: Sequence[int]) -> Constraint | None:
        """Check a complete assignment against all rules; add and return a constraint for an error it finds.

        Needed because a rule can depend on more choices than `_levels` finds.
        """
        chosen = list(enumerate(assignment))
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

    def forbids(self, constraint: Constraint, assignment: Sequence[int]) -> bool:
        """True if the constraint forbids the choices of its scope in this assignment."""
        key = tuple(assignment[level] for level in constraint.scope)
        verdict = constraint.verdicts.get(key)
        if verdict is None:
            chosen = tuple(zip(constraint.scope, key, strict=True))
            verdict = constraint.verdicts[key] = self._judge(constraint, chosen)
        return verdict

    def _judge(self, constraint: Constraint, chosen: Sequence[Choice]) -> bool:
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
        return not self._agrees(reason, facts, self.variables[level].values[dict(chosen)[level]])

    def _agrees(self, reason: Contents, facts: Facts, value: Candidate) -> bool:
        """True if the chosen providers permit version `value` of the component (None: unknown)."""
        name = reason.fact
        releases = [
            (other, release)
            for other in reason.providers
            if (release := self.knowledge.release(other, facts.get(other))) is not None
        ]
        brought = [
            r.contents[name] for other, r in releases if name in r.contents and self._decides(other, name)
        ]
        if brought:
            return all(value == version for version in brought)
        offers = [release.offers[name] for _, release in releases if name in release.offers]
        if offers:
            return all(value in versions for versions in offers)
        apart = bool(releases) and all(self._predates(other, release, name) for other, release in releases)
        return (value is not None) == apart

    def _decides(self, provider: str, name: str) -> bool:
        return provider in self._decided_by.get(name, ())

    def _predates(self, provider: str, release: Release, name: str) -> bool:
        """True if a release is older than the provider's first release that brings `name`.

        With such a release, `name` is installed separately.
        """
        facts = self.knowledge.vocabulary.facts
        first = min((r.version for r in self._releases(provider) if name in r.contents), default=None)
        own = bool(self._releases(name)) and facts[name].side == facts[provider].side
        return own and first is not None and release.version < first

    # Facts

    def providers_of(self, name: str) -> tuple[str, ...]:
        """Return the variables that determine a fact which is not a variable itself, by importance."""
        return tuple(sorted(self._decided_by.get(name, ()), key=rank))

    def brings(self, provider: str, facts: Facts, name: str) -> bool:
        """True if the release of `provider` in `facts` brings `name` in exactly one version."""
        release = self.knowledge.release(provider, facts.get(provider))
        return release is not None and name in release.contents and self._decides(provider, name)

    def provided(self, reason: Contents) -> Iterable[tuple[str, Version, tuple[Version, ...]]]:
        """Yield (provider, release, versions of the component) for each allowed release of each provider."""
        for provider in reason.providers:
            variable = self.variables[self.level[provider]]
            for index in variable.allowed:
                release = self.knowledge.release(provider, variable.values[index])
                if release is not None and reason.fact in release.contents:
                    yield provider, release.version, (release.contents[reason.fact],)
                elif release is not None and reason.fact in release.offers:
                    yield provider, release.version, release.offers[reason.fact]

    def forced_facts(self) -> dict[str, Value]:
        """Return the facts that follow from the variables with a single allowed value."""
        return self.facts((n, v.allowed[0]) for n, v in enumerate(self.variables) if len(v.allowed) == 1)

    def facts(self, chosen: Iterable[Choice], *, jointly: bool = True) -> dict[str, Value]:
        """Return the facts that follow from these choices alone.

        With `jointly=False`, leaves out facts that need several choices together, and is much faster.
        """
        if jointly:
            return derive(self.stated(chosen), self.knowledge)
        facts, stated = dict(self.base), self.stated(chosen)
        for name, value in stated.items():
            if name not in self.given:
                facts.update(self._effects_of(name, value))
        facts.update(stated)
        return facts

    def _effects_of(self, name: str, value: Value) -> Facts:
        """Return the facts that a single choice adds to the given facts."""
        effects = self._effects.get((name, value))
        if effects is None:
            facts = derive({**self.given, name: value}, self.knowledge)
            effects = {fact: known for fact, known in facts.items() if self._implied.get(fact) != known}
            self._effects[name, value] = effects
        return effects

    def stated(self, chosen: Iterable[Choice]) -> dict[str, Value]:
        """Return the given facts together with the chosen facts."""
        stated = dict(self.given)
        for level, index in chosen:
            value = self.variables[level].values[index]
            if value is not None:
                stated[self.variables[level].fact] = value
        for name, twin in self.twins.items():
            if twin in stated:
                stated[name] = stated[twin]
        return stated


def rank(name: str) -> tuple[int, str]:
    """Return the sort key of a fact by importance."""
    return (IMPORTANCE.index(name) if name in IMPORTANCE else len(IMPORTANCE), name)
