"""Reads what the catalog says about versions and cross-checks it; reports all problems at once, with place.

`catalog/versions/` lists components and their releases, `facts.toml` the other words of the rules, `rules/`
the rules, `instances.toml` the machine types, `sources.toml` where it was read, `stacks/` what was tested.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.catalog import SHAPES
from builder.errors import CatalogError
from builder.inheritance import complete_stacks
from builder.requirements import read_requirements
from builder.stack.knowledge import Combination, Derived, Instance, Knowledge, Release
from builder.stack.ruleset import read_clauses, read_rules
from builder.stack.versions import Version, parse
from builder.stack.vocabulary import KINDS, SIDES, Fact, Value, Vocabulary, read_value
from builder.tables import (
    FLAG,
    LIST,
    LISTS,
    NUMBER,
    PRICE,
    STRINGS,
    TABLE,
    TABLES,
    TEXT,
    Problems,
    Shape,
    Table,
    did_you_mean,
    fits,
    read_tables,
    read_toml,
)

_COMPONENT: Shape = {
    "summary": (TEXT, True),
    "side": (TEXT, True),
    "source": (LIST, False),
    "packages": (LIST, False),
    "release": (TABLES, False),
}
_RELEASE: Shape = {
    "version": (TEXT, True),
    "date": (TEXT, False),
    "source": (LIST, False),
    "note": (TEXT, False),
    "sha256": (TEXT, False),
    "bundled_driver": (TEXT, False),
    "brings": (STRINGS, False),
    "keeps": (STRINGS, False),
    "offers": (TABLE, False),
}
_FACT: Shape = {
    "what": (TEXT, True),
    "kind": (TEXT, True),
    "side": (TEXT, True),
    "one_of": (LIST, False),
    "packages": (LIST, False),
    "true_if": (LISTS, False),
    "false_if": (LISTS, False),
}
_FAMILY: Shape = {
    "accelerator": (TEXT, True),
    "accel": (TEXT, True),
    "arch": (TEXT, True),
    "gdr": (FLAG, True),
    "nvswitch": (TEXT, True),
    "family": (TEXT, False),
    "gpu_sm": (NUMBER, False),
    "memory_gib": (NUMBER, False),
    "boot_modes": (LIST, False),
    "source": (TEXT, True),
    "note": (TEXT, False),
    "sizes": (TABLE, True),
}
_SIZE: Shape = {
    "count": (NUMBER, False),
    "vcpus": (NUMBER, False),
    "efa": (NUMBER, False),
    "cards": (NUMBER, False),
    "gbps": (NUMBER, False),
    "nvswitch": (TEXT, False),
    "gdr": (FLAG, False),
    "dollars_per_hour": (PRICE, False),
}


def load(root: Path) -> Knowledge:
    """All that the catalog below `root` knows about versions; raises one CatalogError with all problems."""
    folder, problems = root / "catalog", Problems()
    sources = read_toml(folder, "sources.toml", problems) or {}
    components = read_tables(folder, "versions", _COMPONENT, problems)
    words = read_toml(folder, "facts.toml", problems) or {}
    vocabulary = _vocabulary(components, words, problems)
    knowledge = Knowledge(
        vocabulary=vocabulary,
        rules=read_rules(folder, vocabulary, sources, problems),
        releases=_releases(components, vocabulary, problems),
        instances=_instances(read_toml(folder, "instances.toml", problems) or {}, problems),
        stacks=_stacks(folder, vocabulary, problems),
        derived=_derived(words, vocabulary, problems),
        sources={name: str(text) for name, text in sources.items()},
    )
    for name, stack in knowledge.stacks.items():
        for i, instance in enumerate(stack.instances):
            if instance not in knowledge.instances:
                problems.unknown(
                    f"stacks/{name}.toml", f"instances[{i}]", "type", instance, knowledge.instances
                )
    if problems.found:
        raise CatalogError(sorted(problems.found))
    return knowledge


def _vocabulary(components: Mapping[str, Table], words: Table, problems: Problems) -> Vocabulary:
    facts: dict[str, Fact] = {}
    for name, table in components.items():
        if table:
            fact = Fact(
                name=name,
                kind="version",
                side=table["side"],
                what=table["summary"],
                is_component=True,
                packages=tuple(table.get("packages", ())),
            )
            _add(fact, f"versions/{name}.toml", "", facts, problems)
    for name, table in words.items():
        if not isinstance(table, dict) or not fits(table, _FACT, "facts.toml", f"{name}.", problems):
            continue
        fields = {key: table[key] for key in ("kind", "side", "what")}
        fields |= {key: tuple(table.get(key, ())) for key in ("packages", "one_of")}
        _add(Fact(name=name, **fields), "facts.toml", f"{name}.", facts, problems)
    return Vocabulary(facts)


def _add(fact: Fact, place: str, prefix: str, facts: dict[str, Fact], problems: Problems) -> None:
    if fact.kind not in KINDS:
        problems.unknown(place, f"{prefix}kind", "kind", fact.kind, KINDS)
    elif fact.side not in SIDES:
        problems.unknown(place, f"{prefix}side", "side", fact.side, SIDES)
    elif fact.name in facts:
        problems.add(place, prefix.rstrip("."), f"'{fact.name}' is already a component of versions/")
    else:
        facts[fact.name] = fact


def _releases(
    components: Mapping[str, Table], vocabulary: Vocabulary, problems: Problems
) -> dict[str, tuple[Release, ...]]:
    found = {}
    for name, table in components.items():
        place = f"versions/{name}.toml"
        releases = [
            _release(entry, place, f"release[{i}].", table.get("source", []), vocabulary, problems)
            for i, entry in enumerate(table.get("release", ()))
            if fits(entry, _RELEASE, place, f"release[{i}].", problems)
        ]
        kept = [release for release in releases if release is not None]
        for newer, older in itertools.pairwise(kept):
            if not newer.version > older.version:
                problems.add(
                    place,
                    "release",
                    f"newest first: '{newer.version}' stands before '{older.version}' and is not newer",
                )
        found[name] = tuple(kept)
    return found


def _release(
    entry: Table, place: str, prefix: str, sources: Sequence[str], vocabulary: Vocabulary, problems: Problems
) -> Release | None:
    def version(key: str, text: object) -> Version | None:
        try:
            return parse(text) if isinstance(text, str) else None
        except ValueError as error:
            problems.add(place, prefix + key, str(error))
            return None

    def versions(key: str) -> dict[str, Version]:
        named = {}
        for name, text in entry.get(key, {}).items():
            fact, value = vocabulary.facts.get(name), version(f"{key}.{name}", text)
            if fact is None or fact.kind != "version":
                problems.unknown(place, f"{prefix}{key}.{name}", "component", name, vocabulary.facts)
            elif value is not None:
                named[fact.name] = value
        return named

    offers = {
        name: tuple(v for text in texts if (v := version(f"offers.{name}", text)) is not None)
        for name, texts in entry.get("offers", {}).items()
    }
    own = version("version", entry["version"])
    if own is None:
        return None
    return Release(
        version=own,
        sources=tuple(entry.get("source", sources)),
        bundled_driver=version("bundled_driver", entry.get("bundled_driver")),
        brings=versions("brings"),
        keeps=versions("keeps"),
        offers=offers,
        **{key: entry.get(key, "") for key in ("date", "note", "sha256")},
    )


def _instances(families: Table, problems: Problems) -> dict[str, Instance]:
    found = {}
    for prefix, table in families.items():
        if not isinstance(table, dict) or not fits(table, _FAMILY, "instances.toml", f"{prefix}.", problems):
            continue
        common = {
            key: value for key, value in table.items() if key not in ("sizes", "source", "note", "boot_modes")
        }
        common.setdefault("family", prefix)
        for size, own in table["sizes"].items():
            if fits(own, _SIZE, "instances.toml", f"{prefix}.sizes.{size}.", problems):
                name = f"{prefix}.{size}"
                modes = tuple(table.get("boot_modes", ()))
                found[name] = Instance(name=name, boot_modes=modes, **{**common, **own})
    return found


def _derived(words: Table, vocabulary: Vocabulary, problems: Problems) -> dict[str, Derived]:
    found = {}
    for name, table in words.items():
        if isinstance(table, dict) and ("true_if" in table or "false_if" in table):
            lists = {
                key: tuple(
                    read_clauses(clauses, "facts.toml", f"{name}.{key}[{i}]", vocabulary, problems)
                    for i, clauses in enumerate(table.get(key, ()))
                )
                for key in ("true_if", "false_if")
            }
            found[name] = Derived(**lists)
    return found


def _stacks(folder: Path, vocabulary: Vocabulary, problems: Problems) -> dict[str, Combination]:
    found = {}
    tables = complete_stacks(read_tables(folder, "stacks", SHAPES["stacks"], problems), problems)
    for name, table in tables.items():
        if table:
            place = f"stacks/{name}.toml"
            lines = _requirements(folder, table, place, problems)
            found[name] = Combination(
                name=name,
                summary=table["summary"],
                origin=table.get("origin", ""),
                pins=table["pins"],
                facts=_stack_facts(table, lines, place, vocabulary, problems),
                instances=tuple(table.get("instances", ())),
                requirements=lines,
            )
    return found


def _requirements(folder: Path, table: Table, place: str, problems: Problems) -> tuple[str, ...]:
    if "requirements" not in table:
        return ()
    try:
        return read_requirements(folder / "stacks" / table["requirements"])
    except (OSError, ValueError) as error:
        problems.add(place, "requirements", str(error))
        return ()


def _stack_facts(
    table: Table, requirements: Iterable[str], place: str, vocabulary: Vocabulary, problems: Problems
) -> dict[str, Value]:
    """Pins of components whose role knows no fact (a distribution's package) say nothing to a rule."""
    entries: list[tuple[str, Fact | None, Any]] = [
        (f"pins.{name}", vocabulary.component(name), version) for name, version in table["pins"].items()
    ]
    for name, raw in table.get("facts", {}).items():
        fact = vocabulary.facts.get(name)
        if fact is None:
            problems.add(place, f"facts.{name}", f"no fact '{name}'{did_you_mean(name, vocabulary.facts)}")
        entries.append((f"facts.{name}", fact, raw))
    for line in requirements:
        package, _, version = line.split()[0].partition("==")
        name = re.sub(r"[-_.]+", "-", package).lower()
        entries.append(("requirements", vocabulary.of_package(name), version.rstrip(";")))
    facts: dict[str, Value] = {}
    for key, fact, raw in entries:
        if fact is not None:
            try:
                facts[fact.name] = read_value(fact, raw)
            except ValueError as error:
                problems.add(place, key, str(error))
    return facts
