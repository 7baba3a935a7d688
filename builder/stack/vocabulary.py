"""The vocabulary of the rules: facts, their kinds of values, and the side (host, image, …) that decides them.

A mapping of facts leaves out unknown facts; ABSENT says that a component is known not to be installed.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

from builder.stack.versions import Version, parse
from builder.tables import did_you_mean
from builder.values import dataclass

KINDS = ("version", "flag", "word", "words", "number")
# The side that decides a fact: the machine type, the host below a container (or the AMI itself), the image,
# the machine that builds it, the cluster around it.
SIDES = ("machine", "host", "image", "build", "site")
# Names whose version changes over time; clauses can test them for equality but not for order.
MOVING = ("latest", "main", "master", "nightly")


class Absent(Enum):
    """The value of a component that is known not to be installed (an unknown fact has no value)."""

    ABSENT = "absent"

    def __str__(self) -> str:
        return "absent"


ABSENT = Absent.ABSENT
Value = Version | str | bool | int | tuple[str, ...] | Absent
Facts = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A fact that rules can refer to."""

    name: str
    kind: str
    side: str
    what: str
    is_component: bool = False  # the version of the component of that name, which stacks can pin
    packages: tuple[str, ...] = ()  # Python packages whose version the fact holds
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All facts, by name."""

    facts: Mapping[str, Fact]

    def fact(self, name: str) -> Fact:
        """Return the fact of that name; raise ValueError that suggests a similar name if there is none."""
        if name not in self.facts:
            raise ValueError(f"no fact '{name}'{did_you_mean(name, self.facts)}")
        return self.facts[name]

    def component(self, name: str) -> Fact | None:
        """Return the fact that holds the version of a component, or None if it is not in `versions/`."""
        fact = self.facts.get(name)
        return fact if fact is not None and fact.is_component else None

    def of_package(self, name: str) -> Fact | None:
        """Return the fact that holds the version of a Python package, or None."""
        return next((fact for fact in self.facts.values() if name in fact.packages), None)

    def on(self, facts: Facts, sides: Iterable[str]) -> dict[str, Value]:
        """Return the entries of `facts` whose side is in `sides`."""
        wanted = set(sides)
        return {name: value for name, value in facts.items() if self.facts[name].side in wanted}


def read_value(fact: Fact, raw: object) -> Value:
    """Read a value of `fact` from TOML or the command line; raise ValueError that names fact and value."""
    if raw == "absent" and fact.kind == "version":
        return ABSENT
    try:
        return _READERS[fact.kind](fact, raw)
    except ValueError as error:
        raise ValueError(f"{fact.name}: {error}") from error


def _version(_: Fact, raw: object) -> Value:
    if isinstance(raw, str) and raw in MOVING:
        return raw
    if not isinstance(raw, str):
        raise ValueError(f'{raw!r} is not a version; write it as a string, as in "1.30"')
    return parse(raw)


def _flag(_: Fact, raw: object) -> Value:
    if isinstance(raw, bool):
        return raw
    if raw in ("true", "false"):
        return raw == "true"
    raise ValueError(f"{raw!r} is neither true nor false")


def _number(_: Fact, raw: object) -> Value:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.isascii() and raw.isdigit():
        return int(raw)
    raise ValueError(f"{raw!r} is not a whole number")


def _word(fact: Fact, raw: object) -> Value:
    if not isinstance(raw, str) or not raw or any(character.isspace() for character in raw):
        raise ValueError(f"{raw!r} is not a word")
    if fact.one_of and raw not in fact.one_of:
        raise ValueError(f"'{raw}' is not an allowed value{did_you_mean(raw, fact.one_of)}")
    return raw


def _words(fact: Fact, raw: object) -> Value:
    words = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(words, list | tuple):
        raise ValueError(f"{raw!r} is not a list of words")
    return tuple(str(_word(fact, word)) for word in words if word != "")


_READERS = {"version": _version, "flag": _flag, "number": _number, "word": _word, "words": _words}


def write_value(value: Value) -> str:
    """Return a value in the notation of `--set`."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)
