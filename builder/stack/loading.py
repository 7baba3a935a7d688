"""Load the rules, facts and releases of the catalog, and report all problems in them at once.

`catalog/versions/` lists components and their releases, `facts.toml` the other facts, `rules/` the rules, and
`sources.toml` the documents that they cite. Stacks and machine types come from the catalog.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.broken import Tables, broken_entries
from builder.errors import CatalogError
from builder.model import Catalog, Stack
from builder.parsed import ParsedFiles
from builder.reading import shortened
from builder.stack.knowledge import Derived, Knowledge, Release
from builder.stack.ruleset import read_clauses, read_rules
from builder.stack.versions import Version, parse
from builder.stack.vocabulary import KINDS, SIDES, Fact, Value, Vocabulary, read_value
from builder.tables import (
    LIST,
    LISTS,
    STRINGS,
    TABLE,
    TABLES,
    TEXT,
    Problems,
    Shape,
    Table,
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
    "commit": (TEXT, False),
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


def load(root: Path, catalog: Catalog) -> Knowledge:
    """Load the rules, facts and releases; raise one CatalogError with all problems."""
    knowledge = load_usable(root, catalog)
    if knowledge.broken:
        raise CatalogError(sorted({problem for found in knowledge.broken.values() for problem in found}))
    return knowledge


def load_usable(root: Path, catalog: Catalog, parsed: ParsedFiles | None = None) -> Knowledge:
    """Load the rules, facts and releases; `broken` of the result has the problems of stacks.

    Raises CatalogError for a problem in rules and facts, which apply to all stacks.
    """
    folder, problems = root / "catalog", Problems(parsed)
    sources = read_toml(folder, "sources.toml", problems) or {}
    components = read_tables(folder, "versions", _COMPONENT, problems)
    words = read_toml(folder, "facts.toml", problems) or {}
    vocabulary = _vocabulary(components, words, problems)
    knowledge = Knowledge(
        catalog=catalog,
        vocabulary=vocabulary,
        rules=read_rules(folder, vocabulary, sources, problems),
        releases=_releases(components, vocabulary, problems),
        stated={name: _facts_of(stack, vocabulary, problems) for name, stack in catalog.stacks.items()},
        derived=_derived(words, vocabulary, problems),
        sources={name: str(text) for name, text in sources.items()},
    )
    shared = [file for file in problems.by_file if file.partition("/")[0] not in ("stacks", "versions")]
    if shared:
        raise CatalogError(sorted(problems.found))
    broken = broken_entries(problems, [_uses(catalog)]) if problems.found else {}
    return dataclasses.replace(knowledge, broken={**catalog.broken, **broken})


def _uses(catalog: Catalog) -> Tables:
    """Return the references between entries: the pins of each stack and the stacks of each target."""
    flavours = {
        name: {flavour.name: {"stack": flavour.stack} for flavour in target.flavours.values()}
        for name, target in catalog.targets.items()
    }
    return {
        "stacks": {name: {"pins": dict(stack.pins)} for name, stack in catalog.stacks.items()},
        "targets": {name: {"flavours": table} for name, table in flavours.items()},
    }


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


def _add(fact: Fact, file: str, prefix: str, facts: dict[str, Fact], problems: Problems) -> None:
    if fact.kind not in KINDS:
        problems.unknown(file, f"{prefix}kind", "kind", fact.kind, KINDS)
    elif fact.side not in SIDES:
        problems.unknown(file, f"{prefix}side", "side", fact.side, SIDES)
    elif fact.name in facts:
        problems.add(file, prefix.rstrip("."), f"'{fact.name}' is already a component of versions/")
    else:
        facts[fact.name] = fact


def _releases(
    components: Mapping[str, Table], vocabulary: Vocabulary, problems: Problems
) -> dict[str, tuple[Release, ...]]:
    found = {}
    for name, table in components.items():
        file = f"versions/{name}.toml"
        releases = [
            _release(entry, file, f"release[{i}].", table.get("source", []), vocabulary, problems)
            for i, entry in enumerate(table.get("release", ()))
            if fits(entry, _RELEASE, file, f"release[{i}].", problems)
        ]
        kept = [release for release in releases if release is not None]
        for newer, older in itertools.pairwise(kept):
            if not newer.version > older.version:
                problems.add(
                    file,
                    "release",
                    f"'{newer.version}' is listed before '{older.version}' but is not newer (newest first)",
                )
        found[name] = tuple(kept)
    return found


def _release(
    entry: Table, file: str, prefix: str, sources: Sequence[str], vocabulary: Vocabulary, problems: Problems
) -> Release | None:
    def version(key: str, text: object) -> Version | None:
        try:
            return parse(text) if isinstance(text, str) else None
        except ValueError as error:
            problems.add(file, prefix + key, str(error))
            return None

    def versions(key: str) -> dict[str, Version]:
        named = {}
        for name, text in entry.get(key, {}).items():
            fact, value = vocabulary.facts.get(name), version(f"{key}.{name}", text)
            if fact is None or fact.kind != "version":
                problems.unknown(file, f"{prefix}{key}.{name}", "component", name, vocabulary.facts)
            elif value is not None:
                named[fact.name] = value
        return named

    offers = {}
    for name, texts in entry.get("offers", {}).items():
        if not isinstance(texts, list):
            problems.add(file, f"{prefix}offers.{name}", f"must be a list of strings, not {shortened(texts)}")
            continue
        offers[name] = tuple(v for text in texts if (v := version(f"offers.{name}", text)) is not None)
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
        **{key: entry.get(key, "") for key in ("date", "note", "sha256", "commit")},
    )


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


def _facts_of(stack: Stack, vocabulary: Vocabulary, problems: Problems) -> dict[str, Value]:
    """Return the facts that a stack states; skip pins of components without a file in `versions/`."""
    file = f"stacks/{stack.name}.toml"
    entries: list[tuple[str, Fact | None, object]] = [
        (f"pins.{name}", vocabulary.component(name), version) for name, version in stack.pins.items()
    ]
    for name, value in stack.facts.items():
        if name not in vocabulary.facts:
            problems.unknown(file, f"facts.{name}", "fact", name, vocabulary.facts)
        entries.append((f"facts.{name}", vocabulary.facts.get(name), value))
    for line in stack.requirements:
        package, _, version = line.split()[0].partition("==")
        name = re.sub(r"[-_.]+", "-", package).lower()
        entries.append(("requirements", vocabulary.of_package(name), version.rstrip(";")))
    facts: dict[str, Value] = {}
    for key, fact, raw in entries:
        if fact is not None:
            try:
                facts[fact.name] = read_value(fact, raw)
            except ValueError as error:
                problems.add(file, key, str(error))
    return facts
