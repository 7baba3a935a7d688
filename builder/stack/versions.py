"""Versions in the notations of all vendors, in one total order.

`2.29.3-1`, `2.4.0amzn5.0`, `v2.17.9`, `595.91.07`, `4.1.4-3+b1` and `2.13.0+cpu` are all versions;
other texts are refused. Knows nothing about components.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

_PHASES = {"dev": 0, "a": 1, "b": 2, "rc": 3}
_FINAL = (4, 0)
_SHAPE = re.compile(
    r"""
    v?
    (?:(?P<epoch>\d+):)?
    (?P<upstream>\d+(?:\.\d+)*)
    (?:[.-]?(?P<phase>dev|rc|a|b)\.?(?P<number>\d+))?
    (?:\.?amzn(?P<amazon>\d+(?:\.\d+)*))?     # Amazon's own build: 2.4.0amzn5.0, 60.amzn0
    (?:-aws)?                                  # aws-ofi-nccl tags up to 1.13
    (?:-(?P<revision>\d+(?:\.\d+)*))?          # package revision: 2.29.3-1
    (?:\+(?:b(?P<rebuild>\d+)|[a-z]+[a-z0-9.]*))?  # rebuild of a package; else a variant, which has no rank
    (?:-(?:cloud-)?(?:amd64|arm64)|-aws|\.amzn20\d\d\.(?:x86_64|aarch64))?  # release of a kernel
    """,
    re.VERBOSE | re.ASCII,
)
# Longer than any vendor's version; the limit keeps pasted files out of error messages.
_LONGEST = 64

Key = tuple[int, tuple[int, ...], tuple[int, int], tuple[int, ...]]


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A version: compared by its numbers, printed as it was written."""

    key: Key = field(repr=False)
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text

    @property
    def has_build(self) -> bool:
        """True if the version has a packager's build or revision (`-1`, `amzn5.0`)."""
        return bool(self.key[3])

    @property
    def variant(self) -> str:
        """The local version label (`cpu`, `cu130`, `cuda12.9`), or ""."""
        return self.text.partition("+")[2]

    @property
    def upstream(self) -> Key:
        return (*self.key[:3], ())

    @property
    def major(self) -> int:
        return self.key[1][0] if self.key[1] else 0


@lru_cache(maxsize=4096)
def parse(text: str) -> Version:
    """Parse a version; raise ValueError that quotes the text if it is not a version."""
    match = _SHAPE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        raise ValueError(f"'{shown}' is not a version")
    part = match.groupdict()
    phase = (_PHASES[part["phase"]], int(part["number"])) if part["phase"] else _FINAL
    builds = [
        int(number)
        for name in ("amazon", "revision", "rebuild")
        if part[name]
        for number in part[name].split(".")
    ]
    key: Key = (
        int(part["epoch"] or 0),
        _significant(map(int, part["upstream"].split("."))),
        phase,
        (0, *_significant(builds)) if builds else (),
    )
    return Version(key=key, text=text)


def _significant(numbers: Iterable[int]) -> tuple[int, ...]:
    """Remove trailing zeros, so that 13.0 and 13.0.0 are equal."""
    kept = list(numbers)
    while kept and kept[-1] == 0:
        kept.pop()
    return tuple(kept)


_ORDER: Mapping[str, Callable[[Key, Key], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def compare(left: Version, operator: str, right: Version) -> bool:
    """Return whether `left operator right` holds, with `right` as the version in a condition.

    A condition without a build ignores builds: `== 2.29.3` is true of 2.29.3-1, `>= 1.22` of 1.22.0amzn4.0.
    Equality compares builds only if both versions have one.
    """
    exact = right.has_build and (left.has_build or operator not in ("==", "!="))
    test = _ORDER[operator]
    return test(left.key, right.key) if exact else test(left.upstream, right.upstream)
