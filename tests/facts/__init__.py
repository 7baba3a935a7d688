"""Facts about releases of upstreams, one table per upstream; stand-ins and checks are tested against them.

Each `[[since]]` of a table has the facts that change with a release; a later release keeps the others.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
# Keys of an entry that describe the entry itself.
_ABOUT = {"version", "source"}


class Fact(NamedTuple):
    """Fact about a release: its kind (a key of the table) and its parts; the last part is the value."""

    kind: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.kind, *self.words))


def table_of(upstream: str) -> dict[str, Any]:
    return tomllib.loads((HERE / f"{upstream}.toml").read_text(encoding="utf-8"))


def upstreams() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.toml"))


def facts_of(upstream: str, version: str) -> dict[str, Any]:
    """Return the facts of a release."""
    found: dict[str, Any] = {}
    for entry in table_of(upstream)["since"]:
        if _numbers(entry["version"]) <= _numbers(version):
            found |= entry
    return found


def facts_in(entry: Mapping[str, Any], words: Mapping[str, str] | None = None) -> list[Fact]:
    """Return the facts in an entry, one for each value; `words` has the values of placeholders by name."""
    return [
        Fact(kind, tuple(_fill(part, words or {}) for part in parts))
        for kind, value in entry.items()
        if kind not in _ABOUT
        for parts in _parts(value)
    ]


def words_of(version: str) -> dict[str, str]:
    """Return the values of all placeholders for a version, by name."""
    upstream = version.partition("-")[0]
    major, minor, *_ = (*upstream.split("."), "0")
    return {"version": version, "upstream": upstream, "major": major, "minor": minor}


def _parts(value: Any) -> Iterator[tuple[str, ...]]:
    match value:
        case Mapping():
            for key, inner in value.items():
                if inner in ([], {}):
                    yield (key,)
                for parts in _parts(inner):
                    yield (key, *parts)
        case list():
            for inner in value:
                yield from _parts(inner)
        case _:
            yield (str(value),)


def _fill(text: str, words: Mapping[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers in a version; a suffix like -1 or b1720 is left out."""
    return tuple(int(number) for number in re.findall(r"\d+", re.split(r"[-a-z]", version)[0]))
