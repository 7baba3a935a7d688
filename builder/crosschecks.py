"""Check the references between catalog files, roles and container workloads.

Reports each problem with its file and key. Reads names and variable declarations, runs no roles.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from builder.aliases import check_aliases
from builder.downloads import WORDS, known_filter, placeholders
from builder.members import (
    PIN_OF_STACK,
    POLICIES,
    VENDOR_BASE,
    VERIFY_ONLY,
    closure,
    members_of,
    policy_of,
)
from builder.model import KINDS, Catalog, Component, Flavour, Target
from builder.patterns import WORD
from builder.requirements import is_locked
from builder.sources import role_folder
from builder.tables import Problems, Table, did_you_mean

_REQUIREMENTS = ("", "stack", "workload")
_DOWNLOAD_KINDS = ("archive", "git", "repository")


def _role_variables(root: Path, component: str) -> frozenset[str]:
    """Return the top-level keys of a role's defaults/main.yml."""
    defaults = role_folder(root, component) / "defaults" / "main.yml"
    if not defaults.is_file():
        return frozenset()
    text = defaults.read_text(encoding="utf-8", errors="replace")
    return frozenset(re.findall(r"^([a-z][a-z0-9_]*):", text, re.MULTILINE))


# Function that maps a component to the variables that its role declares.
Declared = Callable[[str], frozenset[str]]


def check(root: Path, catalog: Catalog, problems: Problems) -> None:
    """Add a problem for each reference in the catalog that does not resolve."""
    declared = cache(partial(_role_variables, root))
    before = len(problems.found)
    _check_components(root, catalog, declared, problems)
    _check_stacks(root / "catalog", catalog, problems)
    _check_systems(catalog, problems)
    for name, target in catalog.targets.items():
        _check_references(f"targets/{name}.toml", catalog, target, problems)
    check_aliases(catalog.aliases, catalog.targets, catalog.broken, problems)
    if len(problems.found) == before:
        _check_order(catalog, problems)
    if len(problems.found) == before:
        _check_targets(root, catalog, declared, problems)


def _check_components(root: Path, catalog: Catalog, declared: Declared, problems: Problems) -> None:
    pinnable = {*catalog.components, *(pin for stack in catalog.stacks.values() for pin in stack.pins)}
    for name, component in catalog.components.items():
        file = f"components/{name}.toml"
        for key in ("requires", "after"):
            for i, other in enumerate(getattr(component, key)):
                if other not in catalog.components and f"components/{other}.toml" not in catalog.broken:
                    problems.unknown(file, f"{key}[{i}]", "component", other, catalog.components)
            _check_unique(file, key, getattr(component, key), problems)
        if component.layer not in catalog.layers:
            problems.unknown(file, "layer", "layer", component.layer, catalog.layers)
        if component.requirements not in _REQUIREMENTS:
            problems.unknown(
                file, "requirements", "requirements source", component.requirements, _REQUIREMENTS[1:]
            )
        for i, line in enumerate(component.source_packages):
            if not is_locked(line):
                reason = f"'{line}' is not NAME==VERSION --hash=sha256:DIGEST"
                problems.add(file, f"source_packages[{i}]", reason)
        for i, kind in enumerate(component.kinds):
            if kind not in KINDS:
                problems.unknown(file, f"kinds[{i}]", "kind", kind, KINDS)
        if component.checkpoint and "ami" not in component.kinds:
            problems.add(file, "checkpoint", "only AMIs have checkpoints, and kinds lacks 'ami'")
        if component.brought_by and component.brought_by not in component.requires:
            suggestion = did_you_mean(component.brought_by, component.requires)
            problems.add(
                file, "brought_by", f"component '{component.brought_by}' is not in requires{suggestion}"
            )
        if not role_folder(root, name).is_dir():
            problems.add(file, "", f"no role ansible/roles/{name}")
        _check_variables(declared, file, component.variables, (name,), problems)
        for variable, value in component.variables.items():
            pin = PIN_OF_STACK.fullmatch(value) if isinstance(value, str) else None
            if pin and pin[1] not in pinnable:
                problems.unknown(file, f"variables.{variable}", "pin", pin[1], pinnable)
        _check_downloads(file, component, catalog, problems)


def _check_downloads(file: str, component: Component, catalog: Catalog, problems: Problems) -> None:
    pins = {pin for stack in catalog.stacks.values() for pin in stack.pins}
    has_all_pins = not any(broken.startswith("stacks/") for broken in catalog.broken)
    names = [download.name for download in component.downloads]
    for i, download in enumerate(component.downloads):
        where = f"downloads[{i}]"
        if names.index(download.name) != i:
            problems.add(file, f"{where}.name", f"'{download.name}' is already the name of another download")
        if download.kind not in _DOWNLOAD_KINDS:
            problems.unknown(file, f"{where}.kind", "kind", download.kind, _DOWNLOAD_KINDS)
        if (download.kind == "git") != bool(download.ref):
            problems.add(file, f"{where}.ref", "must be set if kind is 'git', and only then")
        if (download.kind == "repository" or download.signature) and not download.key:
            problems.add(file, f"{where}.key", "missing (URL of the public key that verifies the signature)")
        if bool(download.older_than) != bool(download.older_url):
            problems.add(file, f"{where}.older_url", "must be set if older_than is set, and only then")
        if download.older_than and not component.pinned:
            problems.add(file, f"{where}.older_than", "the component has no version (pinned is not true)")
        for key, name, chosen in placeholders(download):
            known = WORDS | pins if component.pinned else (WORDS | pins) - {"version"}
            if name not in known and has_all_pins:
                problems.unknown(file, f"{where}.{key}", "placeholder", name, known)
            if not known_filter(chosen):
                problems.add(file, f"{where}.{key}", f"no filter '{chosen}'")


def _check_order(catalog: Catalog, problems: Problems) -> None:
    components = catalog.components
    graph = {
        name: tuple(other for other in (*component.requires, *component.after) if other in components)
        for name, component in components.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = " → ".join(reversed(error.args[1]))
        problems.add(f"components/{error.args[1][0]}.toml", "requires", f"dependency cycle: {cycle}")
        return
    rank = {layer: i for i, layer in enumerate(catalog.layers)}
    for name, others in graph.items():
        for other in others:
            if rank[components[other].layer] > rank[components[name].layer]:
                problems.add(
                    f"components/{name}.toml",
                    "layer",
                    f"'{components[name].layer}' comes before layer '{components[other].layer}' "
                    f"of '{other}', on which '{name}' depends",
                )


def _check_stacks(folder: Path, catalog: Catalog, problems: Problems) -> None:
    """Check that each pin names a component with `pinned = true` or with a file in versions/."""
    listed = {path.stem for path in (folder / "versions").glob("*.toml")}
    known = listed | {component.name for component in catalog.components.values() if component.pinned}
    for name, stack in catalog.stacks.items():
        for pin in stack.pins:
            if pin not in known and f"components/{pin}.toml" not in catalog.broken:
                problems.unknown(f"stacks/{name}.toml", f"pins.{pin}", "pinned component", pin, known)
        for i, instance in enumerate(stack.instances):
            if instance not in catalog.instances:
                problems.unknown(
                    f"stacks/{name}.toml", f"instances[{i}]", "EC2 type", instance, catalog.instances
                )


def _check_references(file: str, catalog: Catalog, target: Target, problems: Problems) -> None:
    """Check that the components, the kind and the flavours of a target exist."""
    for key in ("components", "if_pinned"):
        names = getattr(target, key)
        for i, component in enumerate(names):
            if component not in catalog.components:
                problems.unknown(file, f"{key}[{i}]", "component", component, catalog.components)
        _check_unique(file, key, names, problems)
    if target.kind not in KINDS:
        problems.unknown(file, "kind", "kind", target.kind, KINDS)
    for name, flavour in target.flavours.items():
        if not WORD.fullmatch(name):  # it is part of names of files, tags and images
            problems.add(file, f"flavours.{name}", f"the name of a flavour must match {WORD.pattern}")
        _check_flavour(file, catalog, target, flavour, problems)


def _check_targets(root: Path, catalog: Catalog, declared: Declared, problems: Problems) -> None:
    """Check the components of each target; expects that all references between entries are valid."""
    for name, target in catalog.targets.items():
        file = f"targets/{name}.toml"
        everything = closure(catalog, (*target.components, *target.if_pinned))
        _check_variables(declared, file, target.variables, everything, problems)
        for flavour in target.flavours.values():
            members = members_of(catalog, target, flavour)
            _check_members(file, catalog, target, flavour, members, problems)
            _check_policy(declared, file, flavour, members, problems)
            _check_base(file, catalog, target, flavour, members, problems)
        _check_workload(root, file, target, members_of(catalog, target, target.default), catalog, problems)


def _check_unique(file: str, key: str, names: Sequence[str], problems: Problems) -> None:
    for i, name in enumerate(names):
        if names.index(name) != i:
            problems.add(file, f"{key}[{i}]", f"component '{name}' is listed twice")


def _check_flavour(file: str, catalog: Catalog, target: Target, flavour: Flavour, problems: Problems) -> None:
    prefix = f"flavours.{flavour.name}."
    if flavour.system not in catalog.systems:
        problems.unknown(file, f"{prefix}system", "system", flavour.system, catalog.systems)
    elif flavour != target.default and target.kind == "ami" and catalog.systems[flavour.system].ami is None:
        problems.add(
            file, f"{prefix}system", f"system '{flavour.system}' has no [ami], so there is no source AMI"
        )
    if flavour.stack not in catalog.stacks:
        problems.unknown(file, f"{prefix}stack", "stack", flavour.stack, catalog.stacks)
    for i, component in enumerate(flavour.components):
        if component not in catalog.components:
            problems.unknown(file, f"{prefix}with[{i}]", "component", component, catalog.components)
    _check_unique(file, f"{prefix}with", flavour.components, problems)


def _check_members(
    file: str,
    catalog: Catalog,
    target: Target,
    flavour: Flavour,
    members: tuple[str, ...],
    problems: Problems,
) -> None:
    versions = catalog.stacks[flavour.stack].versions
    for member in members:
        component = catalog.components[member]
        if target.kind not in component.kinds:
            problems.add(file, "components", f"component '{member}' does not support kind '{target.kind}'")
        if component.pinned and member not in versions:
            key = f"flavours.{flavour.name}.stack"
            problems.add(file, key, f"stack '{flavour.stack}' has no pin for component '{member}'")


def _check_policy(
    declared: Declared, file: str, flavour: Flavour, members: tuple[str, ...], problems: Problems
) -> None:
    for name in flavour.policy:
        key = f"flavours.{flavour.name}.policy.{name}"
        if name not in members:
            problems.add(
                file, key, f"component '{name}' is not part of this flavour{did_you_mean(name, members)}"
            )
        elif f"{name}_policy" not in declared(name):
            problems.add(file, key, f"the role of '{name}' has no variable {name}_policy")


def _check_systems(catalog: Catalog, problems: Problems) -> None:
    for name, system in catalog.systems.items():
        for i, component in enumerate(system.contains):
            if component not in catalog.components and f"components/{component}.toml" not in catalog.broken:
                problems.unknown(
                    f"systems/{name}.toml", f"contains[{i}]", "component", component, catalog.components
                )


def _check_base(
    file: str,
    catalog: Catalog,
    target: Target,
    flavour: Flavour,
    members: tuple[str, ...],
    problems: Problems,
) -> None:
    """Check that a flavour on a vendor image has a policy, and that "verify_only" adds nothing to it."""
    system = catalog.systems[flavour.system]
    policy, key = policy_of(VENDOR_BASE, target, flavour), f"flavours.{flavour.name}"
    if VENDOR_BASE in members:
        if not system.image:
            problems.add(file, f"{key}.system", f"'{VENDOR_BASE}' needs a system with an image")
        if policy not in POLICIES:
            problems.unknown(file, f"{key}.policy.{VENDOR_BASE}", "policy", policy, POLICIES)
    elif system.contains or system.distributions:
        reason = f"system '{system.name}' is a vendor's image: add component '{VENDOR_BASE}' and its policy"
        problems.add(file, f"{key}.system", reason)
    for name in system.contains if policy == VERIFY_ONLY else ():
        if name in members:
            reason = f"'{name}' is part of the base image, and its policy is {VERIFY_ONLY}"
            problems.add(file, f"{key}.policy.{VENDOR_BASE}", reason)


def _check_workload(
    root: Path,
    file: str,
    target: Target,
    members: tuple[str, ...],
    catalog: Catalog,
    problems: Problems,
) -> None:
    if not target.workload:
        return
    folder = Path("containers") / target.workload
    # `builder lock` compiles requirements.lock from requirements.in, so one of the files is enough here.
    has_requirements = any(
        (root / folder / name).is_file() for name in ("requirements.lock", "requirements.in")
    )
    installs = any(catalog.components[member].requirements == "workload" for member in members)
    if not (root / folder / "Dockerfile").is_file():
        problems.add(file, "workload", f"no file {folder / 'Dockerfile'}")
    if installs and not has_requirements:
        problems.add(file, "workload", f"no file {folder / 'requirements.lock'}")
    if has_requirements and not installs:
        reason = f"{folder} has requirements, but no component has requirements = 'workload'"
        problems.add(file, "components", reason)


def _check_variables(
    declared: Declared, file: str, variables: Table, components: Iterable[str], problems: Problems
) -> None:
    known: set[str] = set()
    for component in components:
        known |= declared(component)
    for variable in variables:
        if variable not in known:
            problems.unknown(file, f"variables.{variable}", "variable", variable, known)
