"""Load `catalog/` into frozen values and report all problems at once, with file and key.

Owns the schema of the TOML files. Does not use the container engine, the network or the host's software.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from builder import aliases
from builder.broken import broken_entries
from builder.crosschecks import check
from builder.errors import CatalogError
from builder.inheritance import complete_stacks, complete_targets
from builder.instances import read_instances
from builder.launch.section import read_launch
from builder.model import (
    AmiShape,
    AmiSource,
    Bootstrap,
    Catalog,
    Component,
    Download,
    Flavour,
    Instance,
    Stack,
    System,
    Target,
)
from builder.parsed import ParsedFiles
from builder.patterns import GROUPS, misfits, name_problem
from builder.requirements import read_requirements
from builder.sources import require_folders
from builder.tables import (
    FLAG,
    LIST,
    NUMBER,
    STRINGS,
    TABLE,
    TABLES,
    TEXT,
    Problems,
    Shape,
    Table,
    fits,
    read_table,
    read_tables,
    read_toml,
    tuples,
)

T = TypeVar("T")

# Keys of a target; a profile accepts the same keys.
TARGET: Shape = {
    "summary": (TEXT, True),
    "inherits": (TEXT, False),
    "kind": (TEXT, False),
    "components": (LIST, False),
    "if_pinned": (LIST, False),
    "workload": (TEXT, False),
    "flavours": (TABLE, False),
    "ami": (TABLE, False),
    "launch": (TABLE, False),
    "variables": (TABLE, False),
}
# Keys that a stack or target must have after it is merged with its base or profile.
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "stacks": ("pins",),
    "targets": ("kind", "components", "flavours"),
}
# Files that every entry depends on.
_SHARED = ("layers.toml", "instances.toml")
SHAPES: Mapping[str, Shape] = {
    "components": {
        "summary": (TEXT, True),
        "layer": (TEXT, True),
        "requires": (LIST, False),
        "after": (LIST, False),
        "kinds": (LIST, False),
        "pinned": (FLAG, False),
        "brought_by": (TEXT, False),
        "requirements": (TEXT, False),
        "source_packages": (LIST, False),
        "downloads": (TABLES, False),
        "variables": (TABLE, False),
        "checkpoint": (FLAG, False),
    },
    "stacks": {
        "summary": (TEXT, True),
        "base": (TEXT, False),
        "pins": (STRINGS, False),
        "without": (STRINGS, False),
        "requirements": (TEXT, False),
        "wheel_index": (TEXT, False),
        "origin": (TEXT, False),
        "instances": (LIST, False),
        "facts": (TABLE, False),
    },
    "systems": {
        "summary": (TEXT, True),
        "distribution": (TEXT, True),
        "family": (TEXT, True),
        "release": (TEXT, True),
        "arches": (LIST, True),
        "python": (TEXT, True),
        "codename": (TEXT, False),
        "bootstrap": (TABLE, False),
        "image": (TEXT, False),
        "contains": (LIST, False),
        "distributions": (STRINGS, False),
        "ami": (TABLE, False),
    },
    "targets": TARGET,
    "profiles": TARGET,
    "flavour": {
        "summary": (TEXT, True),
        "system": (TEXT, True),
        "stack": (TEXT, True),
        "site": (TEXT, False),
        "policy": (STRINGS, False),
        "with": (LIST, False),
    },
    "ami of a target": {
        "build_on": (STRINGS, True),
        "volume_gib": (NUMBER, True),
        "minutes": (NUMBER, True),
        "encryptable": (FLAG, False),
    },
    "bootstrap": {
        "suite": (TEXT, True),
        "packages": (LIST, True),
        "areas": (LIST, False),
        "dpkg_options": (LIST, False),
    },
    "ami": {
        "user": (TEXT, True),
        "regions": (LIST, True),
        "parameter": (TEXT, False),
        "owner": (TEXT, False),
        "name": (TEXT, False),
        "tags": (STRINGS, False),
    },
    "downloads": {
        "name": (TEXT, True),
        "url": (TEXT, True),
        "kind": (TEXT, False),
        "ref": (TEXT, False),
        "suite": (TEXT, False),
        "components": (LIST, False),
        "signature": (TEXT, False),
        "key": (TEXT, False),
        "signed_lists": (FLAG, False),
        "systems": (LIST, False),
        "kinds": (LIST, False),
        "policies": (LIST, False),
        "older_than": (TEXT, False),
        "older_url": (TEXT, False),
    },
    "layers": {"order": (LIST, True)},
}


def load(root: Path) -> Catalog:
    """Load the catalog of the repository at `root`; raise one CatalogError that lists all problems."""
    catalog = load_usable(root)
    require_sound(catalog)
    return catalog


def load_usable(root: Path, parsed: ParsedFiles | None = None) -> Catalog:
    """Load the valid catalog entries; `broken` of the result has the problems of the other entries.

    Raises CatalogError for a problem in a file that all entries depend on.
    """
    folder = root / "catalog"
    require_folders(root)
    problems = Problems(parsed)
    raw = {group: _read_group(folder, group, problems) for group in GROUPS}
    files = _complete(raw, problems)
    instances, snapshot_dollars = read_instances(folder, problems)
    brought = _brought(folder, files["components"], problems)
    order = tuple(read_table(folder, "layers.toml", SHAPES["layers"], problems).get("order", ()))
    catalog = Catalog(
        components={name: _component(name, table, problems) for name, table in files["components"].items()},
        stacks={
            name: _stack(folder, name, table, brought, problems) for name, table in files["stacks"].items()
        },
        systems={name: _system(name, table, problems) for name, table in files["systems"].items()},
        targets={name: _target(name, table, instances, problems) for name, table in files["targets"].items()},
        instances=instances,
        snapshot_dollars=snapshot_dollars,
        layers=order,
        aliases=aliases.read_aliases(folder, problems),
    )
    if shared := [problem for file in _SHARED for problem in problems.by_file.get(file, ())]:
        raise CatalogError(sorted(shared))
    return _without_broken(root, catalog, (raw, files), problems)


def _without_broken(
    root: Path, catalog: Catalog, tables: Sequence[Mapping[str, Mapping[str, Table]]], problems: Problems
) -> Catalog:
    """Return the catalog without broken entries and without entries that depend on broken entries."""
    while True:
        count = len(problems.found)
        broken = broken_entries(problems, tables) if count else {}
        usable = dataclasses.replace(
            catalog,
            components=_unbroken("components", catalog.components, broken),
            stacks=_unbroken("stacks", catalog.stacks, broken),
            systems=_unbroken("systems", catalog.systems, broken),
            targets=_unbroken("targets", catalog.targets, broken),
            aliases={} if aliases.FILE in broken else catalog.aliases,
            broken=broken,
        )
        check(root, usable, problems)
        if len(problems.found) == count:
            return usable


def _unbroken(group: str, entries: Mapping[str, T], broken: Collection[str]) -> dict[str, T]:
    return {name: entry for name, entry in entries.items() if f"{group}/{name}.toml" not in broken}


def require_sound(catalog: Catalog) -> None:
    """Raise one CatalogError that lists all problems of the catalog."""
    if catalog.broken:
        raise CatalogError(sorted({problem for problems in catalog.broken.values() for problem in problems}))


def _complete(raw: Mapping[str, Mapping[str, Table]], problems: Problems) -> dict[str, dict[str, Table]]:
    """Return the valid tables by group and name, merged with their bases and profiles."""
    files = {group: dict(tables) for group, tables in raw.items()}
    files["stacks"] = complete_stacks(files["stacks"], problems)
    files["targets"] = complete_targets(files["targets"], files["profiles"], problems)
    for group, required in _REQUIRED.items():
        for name, table in files[group].items():
            for key in required:
                if table and key not in table:
                    problems.add(f"{group}/{name}.toml", key, f"missing ({SHAPES[group][key][0]})")
                    files[group][name] = {}
    return {group: {name: table for name, table in files[group].items() if table} for group in files}


def _brought(folder: Path, components: Mapping[str, Table], problems: Problems) -> dict[str, dict[str, str]]:
    """Return the versions of bundled components, by component and by bundle release such as "efa 1.51.0"."""
    found: dict[str, dict[str, str]] = {}
    for name, table in components.items():
        if bringer := table.get("brought_by"):
            releases = (read_toml(folder, f"versions/{bringer}.toml", problems) or {}).get("release", ())
            found[name] = {
                f"{bringer} {release['version']}": version
                for release in _tables_of(releases)
                if (version := {**_table(release, "keeps"), **_table(release, "brings")}.get(name))
            }
    return found


def _tables_of(releases: object) -> list[Table]:
    """Return the releases that have a version; `stack.loading` reports releases without one."""
    entries = releases if isinstance(releases, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and "version" in entry]


def _table(release: Table, key: str) -> Table:
    value = release.get(key)
    return value if isinstance(value, dict) else {}


def _read_group(folder: Path, group: str, problems: Problems) -> dict[str, Table]:
    tables = read_tables(folder, group, SHAPES[group], problems)
    for name, table in tables.items():
        if reason := name_problem(group, name):
            problems.add(f"{group}/{name}.toml", "", reason)
        if not _is_plain(group, table, f"{group}/{name}.toml", "", problems):
            tables[name] = {}
    return tables


def _is_plain(group: str, table: Table, file: str, prefix: str, problems: Problems) -> bool:
    """Add a problem for each value that violates the pattern of its key; return True if none does."""
    found = list(misfits(group, table))
    for key, reason in found:
        problems.add(file, prefix + key, reason)
    return not found


def _component(name: str, table: Table, problems: Problems) -> Component:
    fields = tuples(table)
    file = f"components/{name}.toml"
    fields["downloads"] = tuple(
        Download(**tuples(entry))
        for i, entry in enumerate(table.get("downloads", ()))
        if fits(entry, SHAPES["downloads"], file, f"downloads[{i}].", problems)
        and _is_plain("downloads", entry, file, f"downloads[{i}].", problems)
    )
    return Component(name=name, **fields)


def _stack(
    folder: Path, name: str, table: Table, brought: Mapping[str, Mapping[str, str]], problems: Problems
) -> Stack:
    fields = {**table, "instances": tuple(table.get("instances", ()))}
    fields.pop("base", None)
    lock = fields.pop("requirements", "")
    lines: tuple[str, ...] = ()
    if lock:
        try:
            path = folder / "stacks" / lock
            # A missing lock file is valid if its .in file exists, from which `builder lock` compiles it.
            lines = () if not path.exists() and path.with_suffix(".in").is_file() else read_requirements(path)
        except FileNotFoundError:
            problems.add(f"stacks/{name}.toml", "requirements", f"no file '{lock}' in catalog/stacks/")
        except ValueError as error:
            problems.add(f"stacks/{name}.toml", "requirements", f"{lock}: {error}")
    return Stack(
        name=name,
        requirements=lines,
        requirements_file=f"catalog/stacks/{lock}" if lock else "",
        brought={
            component: version
            for component, versions in brought.items()
            for pin in table["pins"].items()
            if (version := versions.get(" ".join(pin)))
        },
        **fields,
    )


def _system(name: str, table: Table, problems: Problems) -> System:
    fields = tuples(table)
    file = f"systems/{name}.toml"
    bootstrap, ami = fields.pop("bootstrap", None), fields.pop("ami", None)
    image = fields.get("image", "")
    if bootstrap is None and not image and ami is None:
        problems.add(file, "", "needs [bootstrap], image or [ami]")
    if bootstrap is not None and image:
        problems.add(file, "image", "set either image or [bootstrap], not both")
    if image and ("@" in image or ":" not in image.rpartition("/")[2]):
        problems.add(file, "image", f"must be an image reference with a tag and no digest, not {image!r}")
    for key in ("contains", "distributions"):
        if fields.get(key) and not image:
            problems.add(file, key, "needs image, the base image that it describes")
    if bootstrap is not None and fits(bootstrap, SHAPES["bootstrap"], file, "bootstrap.", problems):
        _is_plain("bootstrap", bootstrap, file, "bootstrap.", problems)
        fields["bootstrap"] = Bootstrap(**tuples(bootstrap))
        fields.setdefault("codename", bootstrap["suite"])
    if ami is not None and fits(ami, SHAPES["ami"], file, "ami.", problems):
        _is_plain("ami", ami, file, "ami.", problems)
        fields["ami"] = AmiSource(**tuples(ami))
        if ("parameter" in ami) == ("owner" in ami and "name" in ami):
            problems.add(file, "ami", "needs either parameter, or owner and name")
    return System(name=name, **fields)


def _target(name: str, table: Table, instances: Mapping[str, Instance], problems: Problems) -> Target:
    fields = tuples(table)
    fields.pop("inherits", None)
    file = f"targets/{name}.toml"
    shape = fields.pop("ami", None)
    if (shape is None) == (fields["kind"] == "ami"):
        problems.add(file, "ami", "must be set if kind is 'ami', and only then")
    if shape is not None and fits(shape, SHAPES["ami of a target"], file, "ami.", problems):
        fields["ami"] = _ami_shape(shape, file, instances, problems)
    if (launch := fields.pop("launch", None)) is not None:
        fields["launch"] = read_launch(launch, table, file, problems)
    fields["flavours"] = {
        flavour: _flavour(flavour, entry, file, problems) for flavour, entry in table["flavours"].items()
    }
    if not fields["flavours"]:
        problems.add(file, "flavours", "must have at least one flavour")
    return Target(name=name, **fields)


def _flavour(name: str, entry: object, file: str, problems: Problems) -> Flavour | None:
    prefix = f"flavours.{name}."
    if not isinstance(entry, dict):
        problems.add(file, prefix.rstrip("."), f"must be a table, not {entry!r}")
    elif fits(entry, SHAPES["flavour"], file, prefix, problems):
        fields = dict(entry)
        components = tuple(fields.pop("with", ()))
        if fields.get("site", "local") != "local":
            problems.add(file, f"{prefix}site", f"must be 'local' where it is set, not {fields['site']!r}")
        return Flavour(name=name, components=components, **fields)
    return None


def _ami_shape(table: Table, file: str, instances: Mapping[str, Instance], problems: Problems) -> AmiShape:
    dollars = {}
    for arch, name in table["build_on"].items():
        key, instance = f"ami.build_on.{arch}", instances.get(name)
        if instance is None:
            problems.unknown(file, key, "EC2 type", name, instances)
        elif instance.dollars_per_hour is None:
            problems.add(file, key, f"EC2 type '{name}' has no dollars_per_hour in instances.toml")
        else:
            dollars[arch] = instance.dollars_per_hour
    return AmiShape(**table, dollars_per_hour=dollars)
