"""Merge catalog files with their parents: a stack with its base, a target with its profile.

Pure functions from raw tables to raw tables; `catalog` validates and interprets the result.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from builder.tables import Problems, Table, did_you_mean

# A reference to another pin of the same stack, as in `nvidia_fabric_manager = "{nvidia_driver}"`.
_PIN = re.compile(r"\{(\w+)\}")
# Keys that are never inherited.
_OWN = frozenset(("summary", "origin", "base", "inherits", "without"))


def complete_stacks(tables: Mapping[str, Table], problems: Problems) -> dict[str, Table]:
    """Merge each stack with the pins, facts and settings of its base, minus the entries in `without`.

    The key `without` of the result also contains the bases' `without` entries with their reasons.
    """
    done: dict[str, Table] = {}
    for name in _bases_first(tables, "stacks", "base", "stack", problems):
        table, file = tables[name], f"stacks/{name}.toml"
        if "base" not in table:
            done[name] = table
            if "without" in table:
                problems.add(file, "without", "is only allowed together with base")
        elif base := done.get(table["base"]):
            done[name] = _on_base(file, table, base, problems)
    return {name: _with_pins(name, done.get(name, {}), problems) for name in tables}


def complete_targets(
    tables: Mapping[str, Table], profiles: Mapping[str, Table], problems: Problems
) -> dict[str, Table]:
    """Merge each target with its profile and all profiles that this profile inherits from."""
    known: dict[str, Table] = {}

    def complete(file: str, table: Table) -> Table:
        if "inherits" not in table:
            return table
        base = known.get(table["inherits"])
        return _on_profile(file, table, base, problems) if base else {}

    for name in _bases_first(profiles, "profiles", "inherits", "profile", problems):
        known[name] = complete(f"profiles/{name}.toml", profiles[name])
    for name, table in tables.items():
        if "inherits" in table and table["inherits"] not in profiles:
            problems.unknown(f"targets/{name}.toml", "inherits", "profile", table["inherits"], profiles)
    return {name: complete(f"targets/{name}.toml", table) for name, table in tables.items()}


def _bases_first(
    tables: Mapping[str, Table], group: str, key: str, noun: str, problems: Problems
) -> Iterable[str]:
    """Return the names of valid tables, each after its parent, which the table names in `key`."""
    graph: dict[str, list[str]] = {}
    for name, table in tables.items():
        graph[name] = [table[key]] if table.get(key) in tables else []
        if key in table and table[key] not in tables:
            problems.unknown(f"{group}/{name}.toml", key, noun, table[key], tables)
    try:
        return tuple(name for name in TopologicalSorter(graph).static_order() if tables[name])
    except CycleError as error:
        cycle = " → ".join(reversed(error.args[1]))
        problems.add(f"{group}/{error.args[1][0]}.toml", key, f"dependency cycle: {cycle}")
        return ()


def _on_base(file: str, table: Table, base: Table, problems: Problems) -> dict[str, Any]:
    own = {key: value for key, value in table.items() if key not in _OWN}
    taken = {key: value for key, value in base.items() if key not in _OWN}
    kept = _without(file, table, own, taken, problems)
    own_names = {name for _, name in _entries(own)}
    left_out = {name: why for name, why in base.get("without", {}).items() if name not in own_names}
    return {
        **{key: value for key, value in table.items() if key in _OWN},
        **_merged(file, own, kept, table["base"], problems),
        "without": {**left_out, **table.get("without", {})},
    }


def _without(file: str, table: Table, own: Table, base: Table, problems: Problems) -> dict[str, Any]:
    """Return the entries of a base except those that the stack lists in `without`."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    there = {name: section for section, name in _entries(base)}
    mine = {name for _, name in _entries(own)}
    for name, why in table.get("without", {}).items():
        if name not in there:
            message = f"base '{table['base']}' has no '{name}'{did_you_mean(name, there)}"
            problems.add(file, f"without.{name}", message)
        elif name in mine:
            problems.add(file, f"without.{name}", "is also set in this file")
        elif not why.strip():
            problems.add(file, f"without.{name}", "the reason must not be empty")
        else:
            section = there[name]
            del (kept[section] if section else kept)[name]
    return kept


def _entries(table: Table) -> Iterator[tuple[str, str]]:
    """Yield (section, name) of each pin, fact and setting of a stack; the section of a setting is ""."""
    for key, value in table.items():
        if key in ("pins", "facts"):
            yield from ((key, name) for name in value)
        else:
            yield "", key


def _on_profile(file: str, table: Table, base: Table, problems: Problems) -> dict[str, Any]:
    own = {key: value for key, value in table.items() if key not in _OWN}
    taken = {key: value for key, value in base.items() if key not in _OWN}
    return {
        "summary": table["summary"],
        **_merged(file, own, taken, table["inherits"], problems),
    }


def _merged(file: str, own: Table, base: Table, name: str, problems: Problems) -> dict[str, Any]:
    """Merge `own` into `base`: merge tables by key, concatenate component lists, override other values."""
    merged = dict(base)
    for key, value in own.items():
        if key not in base:
            merged[key] = value
        elif isinstance(value, dict):
            for entry in value:
                if entry in base[key] and value[entry] == base[key][entry]:
                    problems.add(file, f"{key}.{entry}", f"same value as in '{name}': remove it here")
            merged[key] = {**base[key], **value}
        elif key in ("components", "if_pinned"):
            for i, entry in enumerate(value):
                if entry in base[key]:
                    problems.add(file, f"{key}[{i}]", f"'{entry}' is already in '{name}': remove it here")
            merged[key] = [*base[key], *value]
        else:
            if value == base[key]:
                problems.add(file, key, f"same value as in '{name}': remove it here")
            merged[key] = value
    return merged


def _with_pins(name: str, table: Table, problems: Problems) -> Table:
    """Replace each `{pin}` reference in a stack with the version of that pin."""
    pins = table.get("pins", {})

    def resolve(section: str, key: str, value: object) -> object:
        match = _PIN.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        if match[1] not in pins:
            problems.unknown(f"stacks/{name}.toml", f"{section}.{key}", "pin", match[1], pins)
        elif _PIN.fullmatch(pins[match[1]]):
            message = f"refers to pin '{match[1]}', which is itself a reference"
            problems.add(f"stacks/{name}.toml", f"{section}.{key}", message)
        else:
            return pins[match[1]]
        return value

    resolved = {
        section: {key: resolve(section, key, value) for key, value in table[section].items()}
        for section in ("pins", "facts")
        if section in table
    }
    return {**table, **resolved}
