"""Reads `catalog/` into frozen values; reports all problems at once, with file and key.

Owns the shape of the TOML files. Knows nothing of engines, networks or versions on this machine.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from builder.crosschecks import check
from builder.errors import CatalogError
from builder.model import AmiShape, AmiSource, Bootstrap, Catalog, Component, Download, Stack, System, Target
from builder.requirements import read_requirements
from builder.tables import (
    FLAG,
    LIST,
    NUMBER,
    PRICE,
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
    tuples,
)

_NAME = {
    "components": (re.compile(r"[a-z][a-z0-9_]*"), "snake_case"),
    "stacks": (re.compile(r"[a-z0-9][a-z0-9.-]*"), "kebab-case"),
    "systems": (re.compile(r"[a-z0-9][a-z0-9.-]*"), "kebab-case"),
    "targets": (re.compile(r"[a-z0-9][a-z0-9-]*"), "kebab-case"),
}

# What a stack is for and what else is true of it: `builder.stack` judges by these, a plan does not ask.
STACK_PURPOSE: Shape = {"instances": (LIST, False), "origin": (TEXT, False), "facts": (TABLE, False)}

SHAPES: Mapping[str, Shape] = {
    "components": {
        "summary": (TEXT, True),
        "layer": (TEXT, True),
        "requires": (LIST, False),
        "after": (LIST, False),
        "kinds": (LIST, False),
        "pinned": (FLAG, False),
        "requirements": (TEXT, False),
        "downloads": (TABLES, False),
        "variables": (TABLE, False),
    },
    "stacks": {
        "summary": (TEXT, True),
        "pins": (STRINGS, True),
        "requirements": (TEXT, False),
        "wheel_index": (TEXT, False),
        **STACK_PURPOSE,
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
        "ami": (TABLE, False),
    },
    "targets": {
        "summary": (TEXT, True),
        "kind": (TEXT, True),
        "system": (TEXT, True),
        "stack": (TEXT, True),
        "components": (LIST, True),
        "if_pinned": (LIST, False),
        "workload": (TEXT, False),
        "systems": (STRINGS, False),
        "ami": (TABLE, False),
        "variables": (TABLE, False),
    },
    "ami of a target": {
        "build_on": (STRINGS, True),
        "volume_gib": (NUMBER, True),
        "minutes": (NUMBER, True),
        "dollars_per_hour": (PRICE, True),
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
        "systems": (LIST, False),
        "kinds": (LIST, False),
    },
    "layers": {"order": (LIST, True)},
}


def load(root: Path) -> Catalog:
    """The catalog below `root`; raises one CatalogError that carries all problems."""
    folder = root / "catalog"
    if not folder.is_dir():
        raise CatalogError(
            [f"{folder}: no such folder"], hint="run in the repository, or pass: builder --root FOLDER"
        )
    problems = Problems()
    files = {group: _read_group(folder, group, problems) for group in _NAME}
    order = tuple(read_table(folder, "layers.toml", SHAPES["layers"], problems).get("order", ()))
    catalog = Catalog(
        components={name: _component(name, table, problems) for name, table in files["components"].items()},
        stacks={name: _stack(folder, name, table, problems) for name, table in files["stacks"].items()},
        systems={name: _system(name, table, problems) for name, table in files["systems"].items()},
        targets={name: _target(name, table, problems) for name, table in files["targets"].items()},
        layers=order,
    )
    if not problems.found:
        check(root, catalog, problems)
    if problems.found:
        raise CatalogError(sorted(problems.found))
    return catalog


def _read_group(folder: Path, group: str, problems: Problems) -> dict[str, Table]:
    pattern, style = _NAME[group]
    tables = read_tables(folder, group, SHAPES[group], problems)
    for name in tables:
        if not pattern.fullmatch(name):
            problems.add(f"{group}/{name}.toml", "", f"a file here is named in {style}")
    return {name: table for name, table in tables.items() if table}


def _component(name: str, table: Table, problems: Problems) -> Component:
    fields = tuples(table)
    file = f"components/{name}.toml"
    fields["downloads"] = tuple(
        Download(**tuples(entry))
        for i, entry in enumerate(table.get("downloads", ()))
        if fits(entry, SHAPES["downloads"], file, f"downloads[{i}].", problems)
    )
    return Component(name=name, **fields)


def _stack(folder: Path, name: str, table: Table, problems: Problems) -> Stack:
    fields = {key: value for key, value in table.items() if key not in STACK_PURPOSE}
    lock = fields.pop("requirements", "")
    lines: tuple[str, ...] = ()
    if lock:
        try:
            lines = read_requirements(folder / "stacks" / lock)
        except FileNotFoundError:
            problems.add(f"stacks/{name}.toml", "requirements", f"no file '{lock}' beside it")
        except ValueError as error:
            problems.add(f"stacks/{lock}", "", str(error))
    return Stack(
        name=name, requirements=lines, requirements_file=f"catalog/stacks/{lock}" if lock else "", **fields
    )


def _system(name: str, table: Table, problems: Problems) -> System:
    fields = tuples(table)
    file = f"systems/{name}.toml"
    bootstrap, ami = fields.pop("bootstrap", None), fields.pop("ami", None)
    image = fields.get("image", "")
    if bootstrap is None and not image and ami is None:
        problems.add(file, "", "needs [bootstrap], image or [ami]")
    if bootstrap is not None and image:
        problems.add(file, "image", "a base is made by [bootstrap] or pulled, not both")
    if image and ("@" in image or ":" not in image.rpartition("/")[2]):
        problems.add(file, "image", f"must be a reference by tag (the lock has its digest), not {image!r}")
    if bootstrap is not None and fits(bootstrap, SHAPES["bootstrap"], file, "bootstrap.", problems):
        fields["bootstrap"] = Bootstrap(**tuples(bootstrap))
        fields.setdefault("codename", bootstrap["suite"])
    if ami is not None and fits(ami, SHAPES["ami"], file, "ami.", problems):
        fields["ami"] = AmiSource(**tuples(ami))
        if ("parameter" in ami) == ("owner" in ami and "name" in ami):
            problems.add(file, "ami", "needs either parameter, or owner and name")
    return System(name=name, **fields)


def _target(name: str, table: Table, problems: Problems) -> Target:
    fields = tuples(table)
    file = f"targets/{name}.toml"
    shape = fields.pop("ami", None)
    if (shape is None) == (fields["kind"] == "ami"):
        problems.add(file, "ami", "goes with kind ami, and with it alone")
    if shape is not None and fits(shape, SHAPES["ami of a target"], file, "ami.", problems):
        fields["ami"] = AmiShape(**shape)
    return Target(name=name, **fields)
