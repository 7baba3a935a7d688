"""Data classes for lint rules and their findings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from builder.lint.files import File, Tree

Hit = tuple[int, str]  # a line, and what is wrong with it
Check = Callable[[File, Tree], Iterable[Hit]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A lint rule for some kinds of file, with its reason and the way to correct a finding."""

    id: str
    kinds: tuple[str, ...]
    why: str
    fix: str
    check: Check


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A line that violates a rule."""

    rule: Rule
    path: str
    line: int
    message: str
