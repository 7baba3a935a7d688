"""Find broken catalog entries: entries with problems, and all entries that depend on such entries.

Pure. Reads references from raw tables, so that references of entries that cannot be loaded count, too.
"""

from collections.abc import Iterator, Mapping, Sequence

from builder.tables import Problems, Table

Tables = Mapping[str, Mapping[str, Table]]  # group → name → table


def broken_entries(problems: Problems, tables: Sequence[Tables]) -> dict[str, tuple[str, ...]]:
    """Map the file of each broken entry to its problems; `tables` has the raw and the merged entries."""
    uses: dict[str, set[str]] = {}
    for groups in tables:
        for group, entries in groups.items():
            for name, table in entries.items():
                uses.setdefault(f"{group}/{name}.toml", set()).update(_used(group, name, table))
    broken = {file: tuple(found) for file, found in problems.by_file.items()}
    count = 0
    while len(broken) > count:
        count = len(broken)
        for file in uses.keys() - broken.keys():
            causes = [problem for used in sorted(uses[file] & broken.keys()) for problem in broken[used]]
            if causes:
                broken[file] = tuple(dict.fromkeys(causes))
    return broken


def _used(group: str, name: str, table: Table) -> Iterator[str]:
    """Yield the catalog files of the entries that an entry depends on."""
    if group == "components":
        yield f"versions/{name}.toml"
        yield from _files("components", table.get("requires"))
        yield from _files("versions", [table.get("brought_by")])
    elif group == "stacks":
        yield from _files("stacks", [table.get("base")])
        yield from _files("versions", table.get("pins"))
    elif group == "systems":
        yield from _files("components", table.get("contains"))
    elif group in ("targets", "profiles"):
        yield from _files("profiles", [table.get("inherits")])
        yield from _files("components", table.get("components"))
        yield from _files("components", table.get("if_pinned"))
        flavours = table.get("flavours")
        for flavour in flavours.values() if isinstance(flavours, Mapping) else ():
            if isinstance(flavour, Mapping):
                yield from _files("systems", [flavour.get("system")])
                yield from _files("stacks", [flavour.get("stack")])
                yield from _files("components", flavour.get("with"))


def _files(group: str, names: object) -> list[str]:
    """Return the catalog files of entries of a group; `names` is a list, or a table with names as keys."""
    named = list(names) if isinstance(names, list | tuple | Mapping) else []
    return [f"{group}/{name}.toml" for name in named if isinstance(name, str)]
