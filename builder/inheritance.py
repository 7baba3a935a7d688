"""Completes catalog files that build on others: a stack on its base, a target on its profile.

Raw tables in, complete raw tables out: pure. What the entries mean is the catalog's to know.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from builder.tables import Problems, Table, did_you_mean

# A value that follows a pin of the same stack, as in `nvidia_fabric_manager = "{nvidia_driver}"`.
_PIN = re.compile(r"\{(\w+)\}")
# Keys that describe one file and are never taken over.
_OWN = frozenset(("summary", "origin", "base", "inherits", "without"))


def complete_stacks(tables: Mapping[str, Table], problems: Problems) -> dict[str, Table]:
    """Stacks with the pins, facts and settings of their base, less what they leave out.

    `without` of the result has everything that a stack and its bases leave out, with the reasons.
    """
    done: dict[str, Table] = {}
    for name in _bases_first(tables, "stacks", "base", "stack", problems):
        table, file = tables[name], f"stacks/{name}.toml"
        if "base" not in table:
            done[name] = table
            if "without" in table:
                problems.add(file, "without", "goes with base")
        elif base := done.get(table["base"]):
            done[name] = _on_base(file, table, base, problems)
    return {name: _with_pins(name, done.get(name, {}), problems) for name in tables}


def complete_targets(
    tables: Mapping[str, Table], profiles: Mapping[str, Table], problems: Problems
) -> dict[str, Table]:
    """Targets with what their profile, and the profiles below that, set for all of them."""
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
    """The names of sound tables, each after the one that its `key` names."""
    graph: dict[str, list[str]] = {}
    for name, table in tables.items():
        graph[name] = [table[key]] if table.get(key) in tables else []
        if key in table and table[key] not in tables:
            problems.unknown(f"{group}/{name}.toml", key, noun, table[key], tables)
    try:
        return tuple(name for name in TopologicalSorter(graph).static_order() if tables[name])
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        problems.add(f"{group}/{error.args[1][0]}.toml", key, f"goes in a circle: {circle}")
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
    """The entries of a base that a stack does not leave out."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    there = {name: section for section, name in _entries(base)}
    mine = {name for _, name in _entries(own)}
    for name, why in table.get("without", {}).items():
        if name not in there:
            message = f"base '{table['base']}' has no '{name}'{did_you_mean(name, there)}"
            problems.add(file, f"without.{name}", message)
        elif name in mine:
            problems.add(file, f"without.{name}", "is set in this file as well")
        elif not why.strip():
            problems.add(file, f"without.{name}", "must give the reason")
        else:
            section = there[name]
            del (kept[section] if section else kept)[name]
    return kept


def _entries(table: Table) -> Iterator[tuple[str, str]]:
    """(section, name) of each pin, fact and setting; settings are in no section."""
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
    """`own` over `base`: tables key by key, lists of components one after the other, else the own value."""
    merged = dict(base)
    for key, value in own.items():
        if key not in base:
            merged[key] = value
        elif isinstance(value, dict):
            for entry in value:
                if entry in base[key] and value[entry] == base[key][entry]:
                    problems.add(file, f"{key}.{entry}", f"repeats the value of '{name}': leave it out")
            merged[key] = {**base[key], **value}
        elif key in ("components", "if_pinned"):
            for i, entry in enumerate(value):
                if entry in base[key]:
                    problems.add(file, f"{key}[{i}]", f"'{entry}' comes with '{name}': leave it out")
            merged[key] = [*base[key], *value]
        else:
            if value == base[key]:
                problems.add(file, key, f"repeats the value of '{name}': leave it out")
            merged[key] = value
    return merged


def _with_pins(name: str, table: Table, problems: Problems) -> Table:
    """A stack with every value that follows a pin replaced by that pin's."""
    pins = table.get("pins", {})

    def follow(section: str, key: str, value: object) -> object:
        match = _PIN.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        if match[1] not in pins:
            problems.unknown(f"stacks/{name}.toml", f"{section}.{key}", "pin", match[1], pins)
        elif _PIN.fullmatch(pins[match[1]]):
            message = f"follows '{match[1]}', which follows another pin"
            problems.add(f"stacks/{name}.toml", f"{section}.{key}", message)
        else:
            return pins[match[1]]
        return value

    followed = {
        section: {key: follow(section, key, value) for key, value in table[section].items()}
        for section in ("pins", "facts")
        if section in table
    }
    return {**table, **followed}
