"""Reads `catalog/` into frozen values and cross-checks them; reports all problems at once, with file and key.

Owns the shape of the TOML files. Knows nothing of engines, networks or versions on this machine.
"""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from builder.downloads import WORDS, known_filter, placeholders
from builder.errors import CatalogError
from builder.model import AmiShape, AmiSource, Bootstrap, Catalog, Component, Download, Stack, System, Target

KINDS = ("ami", "container")
REQUIREMENTS = ("", "stack", "workload")
DOWNLOAD_KINDS = ("archive", "git", "repository")
_NAME = {
    "components": (re.compile(r"[a-z][a-z0-9_]*"), "snake_case"),
    "stacks": (re.compile(r"[a-z0-9][a-z0-9.-]*"), "kebab-case"),
    "systems": (re.compile(r"[a-z0-9][a-z0-9.-]*"), "kebab-case"),
    "targets": (re.compile(r"[a-z0-9][a-z0-9-]*"), "kebab-case"),
}

# What a key may hold, by the name that an error message gives it.
_TYPES: Mapping[str, Callable[[object], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "a list of strings": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "a table of strings": lambda value: (
        isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    ),
    "a table": lambda value: isinstance(value, dict),
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "a price": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "a list of tables": lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value),
    "a list of lists of strings": lambda value: (
        isinstance(value, list) and all(_TYPES["a list of strings"](v) for v in value)
    ),
}
TEXT, FLAG, LIST, STRINGS, TABLE, NUMBER, PRICE, TABLES, LISTS = _TYPES

Table = Mapping[str, Any]
Shape = Mapping[str, tuple[str, bool]]  # key → (type, required)

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


class Problems:
    """Collects what is wrong, so that one run shows all of it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, place: str, key: str, message: str) -> None:
        self.found.append(f"{place}: {key}: {message}" if key else f"{place}: {message}")

    def unknown(self, place: str, key: str, noun: str, name: str, known: Iterable[str]) -> None:
        self.add(place, key, f"no {noun} '{name}'{did_you_mean(name, known)}")


# Words that facts and pins had before they were named after their component: good for a suggestion alone.
RENAMED: Mapping[str, str] = {
    "container_toolkit": "nvidia_container_toolkit",
    "driver": "nvidia_driver",
    "driver_below_bundled": "nvidia_driver_below_bundled",
    "driver_branch": "nvidia_driver_branch",
    "driver_flavor": "nvidia_driver_flavor",
    "driver_rebuilt_after_efa": "nvidia_driver_rebuilt_after_efa",
    "efa_installer": "efa",
    "fabric_manager": "nvidia_fabric_manager",
    "fm_started_in_build": "nvidia_fabric_manager_started_in_build",
    "imex": "nvidia_imex",
    "k8s": "kubernetes",
    "neuron_dkms": "neuron_driver",
    "neuron_dkms_in_container": "neuron_driver_in_container",
    "nv_peermem": "efa_nv_peermem",
    "nxd": "uses_nxd",
    "nxdt": "uses_nxd_training",
    "nxdt_version": "nxd_training",
    "ofi_build_libfabric_major_gt_runtime": "aws_ofi_nccl_libfabric_major_gt_runtime",
    "ofi_configure": "aws_ofi_nccl_configure",
    "ofi_custom_build": "aws_ofi_nccl_custom_build",
    "ofi_nccl": "aws_ofi_nccl",
    "pcluster_version": "parallelcluster",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that refuses `name`: the nearest known name, or all of them if they are few."""
    names = sorted(known)
    words = {old: new for old, new in RENAMED.items() if new in names} | {name: name for name in names}
    near = difflib.get_close_matches(name, words, n=1)
    if near:
        return f" (did you mean '{words[near[0]]}'?)"
    return f" (there is: {', '.join(names)})" if 0 < len(names) <= 8 else ""


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
        _check_components(root, catalog, problems)
        _check_stacks(folder, catalog, problems)
        _check_targets(root, catalog, problems)
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


def read_tables(folder: Path, group: str, shape: Shape, problems: Problems) -> dict[str, Table]:
    """The TOML files of one folder by name; a file with problems is empty."""
    return {
        path.stem: read_table(folder, f"{group}/{path.name}", shape, problems)
        for path in sorted((folder / group).glob("*.toml"))
    }


def read_table(folder: Path, place: str, shape: Shape, problems: Problems) -> Table:
    """One TOML file if it has that shape, else nothing but the problems it adds."""
    table = read_toml(folder, place, problems)
    return table if table is not None and fits(table, shape, place, "", problems) else {}


def read_toml(folder: Path, place: str, problems: Problems) -> Table | None:
    """One TOML file of any shape; None where there is none to read."""
    try:
        return tomllib.loads((folder / place).read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.add(place, "", "no such file")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.add(place, "", f"not TOML: {error}")
    return None


def fits(table: Table, shape: Shape, place: str, prefix: str, problems: Problems) -> bool:
    """Whether `table` has the keys and types of `shape`; says what has not."""
    before = len(problems.found)
    for key, value in table.items():
        if key not in shape:
            problems.add(place, prefix + key, f"unknown key{did_you_mean(key, shape)}")
        elif not _TYPES[shape[key][0]](value):
            problems.add(place, prefix + key, f"must be {shape[key][0]}, not {value!r}")
    for key, (type_name, required) in shape.items():
        if required and key not in table:
            problems.add(place, prefix + key, f"missing ({type_name})")
    return len(problems.found) == before


def _tuples(table: Table) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _component(name: str, table: Table, problems: Problems) -> Component:
    fields = _tuples(table)
    place = f"components/{name}.toml"
    fields["downloads"] = tuple(
        Download(**_tuples(entry))
        for i, entry in enumerate(table.get("downloads", ()))
        if fits(entry, SHAPES["downloads"], place, f"downloads[{i}].", problems)
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
    fields = _tuples(table)
    place = f"systems/{name}.toml"
    bootstrap, ami = fields.pop("bootstrap", None), fields.pop("ami", None)
    image = fields.get("image", "")
    if bootstrap is None and not image and ami is None:
        problems.add(place, "", "needs [bootstrap], image or [ami]")
    if bootstrap is not None and image:
        problems.add(place, "image", "a base is made by [bootstrap] or pulled, not both")
    if image and ("@" in image or ":" not in image.rpartition("/")[2]):
        problems.add(place, "image", f"must be a reference by tag (the lock has its digest), not {image!r}")
    if bootstrap is not None and fits(bootstrap, SHAPES["bootstrap"], place, "bootstrap.", problems):
        fields["bootstrap"] = Bootstrap(**_tuples(bootstrap))
        fields.setdefault("codename", bootstrap["suite"])
    if ami is not None and fits(ami, SHAPES["ami"], place, "ami.", problems):
        fields["ami"] = AmiSource(**_tuples(ami))
        if ("parameter" in ami) == ("owner" in ami and "name" in ami):
            problems.add(place, "ami", "needs either parameter, or owner and name")
    return System(name=name, **fields)


def _target(name: str, table: Table, problems: Problems) -> Target:
    fields = _tuples(table)
    place = f"targets/{name}.toml"
    shape = fields.pop("ami", None)
    if (shape is None) == (fields["kind"] == "ami"):
        problems.add(place, "ami", "goes with kind ami, and with it alone")
    if shape is not None and fits(shape, SHAPES["ami of a target"], place, "ami.", problems):
        fields["ami"] = AmiShape(**shape)
    return Target(name=name, **fields)


def read_requirements(path: Path) -> tuple[str, ...]:
    """The requirements of a pip lock, one string each, comments and continuations resolved.

    Raises ValueError for a line without an exact version or without a hash.
    """
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    requirements = tuple(" ".join(line.split()) for line in lines if line.strip())
    for line in requirements:
        if not re.match(r"[A-Za-z0-9._-]+==\S+", line) or "--hash=sha256:" not in line:
            raise ValueError(f"'{line.split(' --hash')[0]}' needs an exact version and a sha256 hash")
    return requirements


def role_folder(root: Path, component: str) -> Path:
    return root / "ansible" / "roles" / component


def _role_variables(root: Path, component: str) -> set[str]:
    """The names that a role declares; its defaults are flat, so the first column tells."""
    defaults = role_folder(root, component) / "defaults" / "main.yml"
    if not defaults.is_file():
        return set()
    return set(re.findall(r"^([a-z][a-z0-9_]*):", defaults.read_text(encoding="utf-8"), re.MULTILINE))


def _check_components(root: Path, catalog: Catalog, problems: Problems) -> None:
    for name, component in catalog.components.items():
        place = f"components/{name}.toml"
        for key in ("requires", "after"):
            for i, other in enumerate(getattr(component, key)):
                if other not in catalog.components:
                    problems.unknown(place, f"{key}[{i}]", "component", other, catalog.components)
        if component.layer not in catalog.layers:
            problems.unknown(place, "layer", "layer", component.layer, catalog.layers)
        if component.requirements not in REQUIREMENTS:
            problems.unknown(place, "requirements", "source", component.requirements, REQUIREMENTS[1:])
        for i, kind in enumerate(component.kinds):
            if kind not in KINDS:
                problems.unknown(place, f"kinds[{i}]", "kind", kind, KINDS)
        if not role_folder(root, name).is_dir():
            problems.add(place, "", f"no role ansible/roles/{name}")
        _check_variables(root, place, component.variables, (name,), problems)
        _check_downloads(place, component, catalog, problems)
    if not problems.found:
        _check_order(catalog, problems)


def _check_downloads(place: str, component: Component, catalog: Catalog, problems: Problems) -> None:
    pins = {pin for stack in catalog.stacks.values() for pin in stack.pins}
    names = [download.name for download in component.downloads]
    for i, download in enumerate(component.downloads):
        where = f"downloads[{i}]"
        if names.index(download.name) != i:
            problems.add(place, f"{where}.name", f"'{download.name}' is already the name of another download")
        if download.kind not in DOWNLOAD_KINDS:
            problems.unknown(place, f"{where}.kind", "kind", download.kind, DOWNLOAD_KINDS)
        if (download.kind == "git") != bool(download.ref):
            problems.add(place, f"{where}.ref", "goes with kind git, and with it alone")
        if (download.kind == "repository" or download.signature) and not download.key:
            problems.add(place, f"{where}.key", "missing: who signed it?")
        for key, name, chosen in placeholders(download):
            known = WORDS | pins if component.pinned else (WORDS | pins) - {"version"}
            if name not in known:
                problems.unknown(place, f"{where}.{key}", "placeholder", name, known)
            if not known_filter(chosen):
                problems.add(place, f"{where}.{key}", f"no filter '{chosen}'")


def _check_order(catalog: Catalog, problems: Problems) -> None:
    components = catalog.components
    graph = {name: (*component.requires, *component.after) for name, component in components.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = " → ".join(reversed(error.args[1]))
        problems.add(f"components/{error.args[1][0]}.toml", "requires", f"goes in a circle: {cycle}")
        return
    rank = {layer: i for i, layer in enumerate(catalog.layers)}
    for name, others in graph.items():
        for other in others:
            if rank[components[other].layer] > rank[components[name].layer]:
                problems.add(
                    f"components/{name}.toml",
                    "layer",
                    f"'{components[name].layer}' lies below layer '{components[other].layer}' "
                    f"of '{other}', which it requires",
                )


def _check_stacks(folder: Path, catalog: Catalog, problems: Problems) -> None:
    """A pin names a component whose role takes a version, or one whose versions the catalog lists."""
    listed = {path.stem for path in (folder / "versions").glob("*.toml")}
    known = listed | {component.name for component in catalog.components.values() if component.pinned}
    for name, stack in catalog.stacks.items():
        for pin in stack.pins:
            if pin not in known:
                problems.unknown(f"stacks/{name}.toml", f"pins.{pin}", "pinned component", pin, known)


def _check_targets(root: Path, catalog: Catalog, problems: Problems) -> None:
    for name, target in catalog.targets.items():
        place = f"targets/{name}.toml"
        for key in ("components", "if_pinned"):
            for i, component in enumerate(getattr(target, key)):
                if component not in catalog.components:
                    problems.unknown(place, f"{key}[{i}]", "component", component, catalog.components)
        if target.kind not in KINDS:
            problems.unknown(place, "kind", "kind", target.kind, KINDS)
        _check_systems(place, catalog, target, problems)
        if problems.found:
            continue
        for system in (target.system, *target.systems):
            variant = on_system(target, system)
            members = members_of(catalog, variant)
            _check_members(place, catalog, variant, members, problems)
        everything = closure(catalog, (*target.components, *target.if_pinned))
        _check_variables(root, place, target.variables, everything, problems)
        _check_workload(root, place, target, members_of(catalog, target), catalog, problems)


def _check_systems(place: str, catalog: Catalog, target: Target, problems: Problems) -> None:
    pairs = [("", target.system, target.stack)]
    pairs += [("systems.", system, stack) for system, stack in target.systems.items()]
    for prefix, system, stack in pairs:
        if system not in catalog.systems:
            key = f"{prefix}{system}" if prefix else "system"
            problems.unknown(place, key, "system", system, catalog.systems)
        elif prefix and target.kind == "ami" and catalog.systems[system].ami is None:
            problems.add(place, f"{prefix}{system}", "has no [ami], so no AMI starts from it")
        if stack not in catalog.stacks:
            key = f"{prefix}{system}" if prefix else "stack"
            problems.unknown(place, key, "stack", stack, catalog.stacks)


def _check_members(
    place: str, catalog: Catalog, target: Target, members: tuple[str, ...], problems: Problems
) -> None:
    pins = catalog.stacks[target.stack].pins
    for member in members:
        component = catalog.components[member]
        if target.kind not in component.kinds:
            problems.add(place, "components", f"'{member}' cannot go into a {target.kind}")
        if component.pinned and member not in pins:
            problems.add(place, "stack", f"'{target.stack}' has no pin for component '{member}'")


def _check_workload(
    root: Path,
    place: str,
    target: Target,
    members: tuple[str, ...],
    catalog: Catalog,
    problems: Problems,
) -> None:
    if not target.workload:
        return
    for needed in ("Dockerfile", "requirements.lock"):
        path = Path("containers") / target.workload / needed
        if not (root / path).is_file():
            problems.add(place, "workload", f"no file {path}")
    if not any(catalog.components[member].requirements == "workload" for member in members):
        problems.add(place, "components", "a workload needs the component that installs its requirements")


def _check_variables(
    root: Path, place: str, variables: Table, components: Iterable[str], problems: Problems
) -> None:
    known: set[str] = set()
    for component in components:
        known |= _role_variables(root, component)
    for variable in variables:
        if variable not in known:
            problems.unknown(place, f"variables.{variable}", "variable", variable, known)


def on_system(target: Target, system: str) -> Target:
    """The target on one of its systems, with the stack that it has there."""
    if system == target.system:
        return target
    return dataclasses.replace(target, system=system, stack=target.systems[system])


def members_of(catalog: Catalog, target: Target) -> tuple[str, ...]:
    """All components of a target in canonical order; its stack decides about those that it may leave out."""
    pins = catalog.stacks[target.stack].pins
    chosen = [name for name in target.if_pinned if name in pins]
    return closure(catalog, (*target.components, *chosen))


def closure(catalog: Catalog, names: Iterable[str]) -> tuple[str, ...]:
    """`names` with all that they require, in the one canonical order.

    Layer by layer; within a layer what is required comes first, and names decide the rest.
    The order of any two components is the same in every target, so equal sets give equal layers.
    """
    components = catalog.components
    members: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in members:
            members.add(name)
            pending.extend(components[name].requires)
    return tuple(name for name in _rank(catalog) if name in members)


def _rank(catalog: Catalog) -> list[str]:
    """All components in canonical order."""
    ranked: list[str] = []
    for layer in catalog.layers:
        group = {name for name, component in catalog.components.items() if component.layer == layer}
        sorter = TopologicalSorter(
            {
                name: group.intersection(
                    (*catalog.components[name].requires, *catalog.components[name].after)
                )
                for name in sorted(group)
            }
        )
        sorter.prepare()
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            ranked.extend(ready)
            sorter.done(*ready)
    return ranked
