"""Resolve a target to a plan: components, role variables, versions, layer keys and rule results.

Pure: the plan depends only on the catalog, the sources and the lock, not on host, clock or network.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from builder.downloads import downloads_of
from builder.errors import CatalogError, UsageError
from builder.lock import FIELDS, LOCAL, Lock, Want, as_variable, unlocked, wants
from builder.members import (
    PIN_OF_STACK,
    VENDOR_BASE,
    describe_base,
    members_of,
    policy_of,
    settings_of,
)
from builder.model import (
    Catalog,
    Component,
    Flavour,
    Layer,
    Plan,
    Stack,
    Suite,
    System,
    Target,
    Value,
)
from builder.sources import Sources, digest_of
from builder.stack.judging import judge
from builder.stack.knowledge import Knowledge
from builder.tables import did_you_mean
from builder.values import dataclass

# Part of every layer key: increment it when a change of the build code changes the contents of layers.
FORMAT = 5
LOCK_INPUT = "lock entries"  # input of a workload's layer: the checksum of the entries that the plan uses


def find_target(catalog: Catalog, name: str) -> Target:
    """Return the target with this name or alias."""
    name = catalog.aliases.get(name, name)
    if problems := catalog.broken.get(f"targets/{name}.toml"):
        raise CatalogError(problems, hint=f"correct the catalog, then run: builder plan {name}")
    if name not in catalog.targets:
        raise UsageError(
            f"no target '{name}'{did_you_mean(name, [*catalog.targets, *catalog.aliases])}",
            hint="builder list",
        )
    return catalog.targets[name]


def find_flavour(target: Target, name: str = "", *, site: str = LOCAL) -> Flavour:
    """Return the flavour with this name, or the default flavour of the site if `name` is empty."""
    if name and name not in target.flavours:
        raise UsageError(
            f"target '{target.name}' has no flavour '{name}'{did_you_mean(name, target.flavours)}",
            hint=f"builder show {target.name}",
        )
    if name or site == LOCAL:
        return target.flavours[name] if name else target.default
    for flavour in target.flavours.values():
        if flavour.site != LOCAL:
            return flavour
    raise UsageError(
        f"target '{target.name}' has no flavour for site '{site}'", hint=f"builder show {target.name}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Resolved:
    """All inputs of the plan of one flavour for one architecture."""

    catalog: Catalog
    target: Target
    flavour: Flavour
    system: System
    stack: Stack
    arch: str
    components: tuple[str, ...]
    sources: Sources
    lock: Lock
    wants: tuple[Want, ...]

    @property
    def capabilities(self) -> dict[str, Value]:
        return capabilities(self.system, self.stack, kind=self.target.kind, arch=self.arch)


def plan(
    knowledge: Knowledge,
    target: Target,
    flavour: Flavour,
    sources: Sources,
    lock: Lock,
    *,
    arch: str,
    site: str = LOCAL,
    region: str = "",
) -> Plan:
    """Return the plan of a flavour, with the result of the rules, for one architecture, site and region."""
    resolved = _resolve(
        knowledge.catalog, target, flavour, sources, lock, arch=arch, site=site, region=region
    )
    verdict = judge(
        knowledge, resolved.stack, resolved.system, kind=target.kind, arch=arch, members=resolved.components
    )
    image = lock.value("image", f"{resolved.system.image} {arch}")
    return Plan(
        target=target,
        flavour=flavour,
        system=resolved.system,
        stack=resolved.stack,
        arch=arch,
        components=resolved.components,
        capabilities=resolved.capabilities,
        versions=_versions(resolved),
        layers=_layers(resolved, verdict.environment),
        checks=sources.checks,
        base_image=f"{resolved.system.image.rpartition(':')[0]}@{image}" if image else "",
        suites=tuple(_suites(resolved)),
        unlocked=tuple(
            f"{want} ({want.owner})" for want in unlocked(lock, resolved.wants, sources.requirements)
        ),
        unverified=tuple(
            str(want) for want in resolved.wants if want in lock.entries and not lock.entries[want].verified
        ),
        workload_files=tuple(PurePosixPath(path) for path, _ in sources.workload_files),
        settings=verdict.settings,
        warnings=verdict.warnings,
        errors=verdict.errors,
    )


def _resolve(
    catalog: Catalog,
    target: Target,
    flavour: Flavour,
    sources: Sources,
    lock: Lock,
    *,
    arch: str,
    site: str,
    region: str,
) -> _Resolved:
    system = catalog.systems[flavour.system]
    if arch not in system.arches:
        raise UsageError(
            f"target '{target.name}': system '{system.name}' does not support {arch}"
            f" (supported: {', '.join(system.arches)})",
            hint=f"builder show {target.name}",
        )
    return _Resolved(
        catalog=catalog,
        target=target,
        flavour=flavour,
        system=system,
        stack=catalog.stacks[flavour.stack],
        arch=arch,
        components=members_of(catalog, target, flavour),
        sources=sources,
        lock=lock,
        wants=wants(catalog, target, flavour, arch=arch, site=site, region=region),
    )


def _suites(resolved: _Resolved) -> Iterable[Suite]:
    for want in resolved.wants:
        if want.kind == "suite":
            values = {name: resolved.lock.value("suite", want.subject, name) for name in FIELDS["suite"]}
            yield Suite(name=want.subject.partition(" ")[2], **values)


def _base_layer(resolved: _Resolved) -> Layer:
    """Return the base layer; its key covers the recipe of the base and the lock entries of its sources."""
    system = resolved.system
    recipe = {"image": system.image, "bootstrap": system.bootstrap and dataclasses.asdict(system.bootstrap)}
    inputs = {f"system {system.name}": digest_of([resolved.arch, recipe])}
    kinds = ("ami", "suite", "image")
    inputs |= {
        str(want): resolved.lock.value(want.kind, want.subject)
        for want in resolved.wants
        if want.kind in kinds
    }
    dates = [suite.date for suite in _suites(resolved)]
    if dates:
        inputs["reference time"] = max(dates)
    return _layer("base", kind="base", parent="", inputs=inputs)


def _lock_checksum(resolved: _Resolved) -> str:
    entries = resolved.lock.entries
    return digest_of([[str(want), entries[want].values] for want in resolved.wants if want in entries])


def capabilities(system: System, stack: Stack, *, kind: str, arch: str) -> dict[str, Value]:
    """Return the facts about the image that roles may use.

    A kernel pin is either a full release or a series such as "6.8". A series selects the kernel that the base
    image has installed; the lock fixes that kernel together with the base.
    """
    kernel = stack.pins.get("kernel", "") if kind == "ami" else ""
    series = {"kernel_series": kernel} if kernel and "-" not in kernel else {"target_kernel": kernel}
    return {
        "arch": arch,
        "can_load_modules": kind == "ami",
        "has_systemd": kind == "ami",
        "is_container": kind == "container",
        "system_distribution": system.distribution,
        "system_family": system.family,
        "system_release": system.release,
        **series,
    }


def _versions(resolved: _Resolved) -> dict[str, str]:
    """Return the version of every pinned component and Python package."""
    components = [resolved.catalog.components[name] for name in resolved.components]
    versions = {
        component.name: resolved.stack.versions[component.name]
        for component in components
        if component.pinned
    }
    for component in components:
        for line in (*_requirements(resolved, component), *component.source_packages):
            package, _, version = line.split()[0].partition("==")
            versions[re.sub(r"[-_.]+", "-", package).lower()] = version.rstrip(";")
    return versions


def _requirements(resolved: _Resolved, component: Component) -> tuple[str, ...]:
    lists = {"": (), "stack": resolved.stack.requirements, "workload": resolved.sources.workload_requirements}
    return lists[component.requirements]


def _variables(resolved: _Resolved, component: Component) -> dict[str, Value]:
    """Merge the variables of a role; the target overrides the component, which overrides computed values."""
    name = component.name
    variables: dict[str, Value] = {}
    if component.pinned:
        variables[f"{name}_version"] = resolved.stack.versions[name]
    if component.requirements:
        variables[f"{name}_requirements"] = list(_requirements(resolved, component))
    if component.source_packages:
        variables[f"{name}_source_packages"] = list(component.source_packages)
    if component.downloads:
        found = downloads_of(
            component,
            stack=resolved.stack,
            system=resolved.system,
            kind=resolved.target.kind,
            policy=policy_of(name, resolved.target, resolved.flavour),
            arch=resolved.arch,
        )
        variables[f"{name}_downloads"] = {
            download.name: as_variable(download, resolved.lock) for download in found
        }
    if name == VENDOR_BASE:
        variables |= describe_base(resolved.system, resolved.stack)
    settings = settings_of(resolved.target, resolved.flavour)
    own = {key: value for key, value in settings.items() if owner(key, resolved.components) == name}
    return {**variables, **_with_pins(component.variables, resolved.stack), **own}


def _with_pins(variables: Mapping[str, Value], stack: Stack) -> dict[str, Value]:
    """Replace each text that is "{NAME}" by the stack's pin of that name, or "" if there is none."""
    return {
        key: stack.pins.get(named[1], "")
        if isinstance(value, str) and (named := PIN_OF_STACK.fullmatch(value))
        else value
        for key, value in variables.items()
    }


def owner(variable: str, components: Iterable[str]) -> str:
    """Return the component whose name prefixes a variable; the longest wins (`python_env` over `python`)."""
    return max((name for name in components if variable.startswith(f"{name}_")), key=len, default="")


def _layers(resolved: _Resolved, environment: Mapping[str, str]) -> tuple[Layer, ...]:
    """Return the base layer, one layer per component group, and the workload layer; keys cover lower layers.

    The first layer of components sets the environment of the image.
    """
    layers = [_base_layer(resolved)]
    shared = {"runner": resolved.sources.runner, "capabilities": digest_of(resolved.capabilities)}
    for name, group in groupby(resolved.components, key=lambda c: resolved.catalog.components[c].layer):
        members = tuple(group)
        variables = {member: _variables(resolved, resolved.catalog.components[member]) for member in members}
        own = environment if len(layers) == 1 and resolved.target.kind == "container" else {}
        layers.append(
            _layer(
                name,
                kind="components",
                parent=layers[-1].key,
                inputs=shared
                | ({"environment": digest_of(own)} if own else {})
                | {f"role {member}": resolved.sources.roles[member] for member in members}
                | {f"variables of {member}": digest_of(variables[member]) for member in members},
                components=members,
                variables={key: value for table in variables.values() for key, value in table.items()},
                environment=own,
                checkpoint=resolved.target.kind == "ami"
                and any(resolved.catalog.components[member].checkpoint for member in members),
            )
        )
    if resolved.target.workload:
        inputs = {
            "target": digest_of([resolved.target.name, resolved.stack.name, resolved.target.summary]),
            LOCK_INPUT: _lock_checksum(resolved),
            f"containers/{resolved.target.workload}/Dockerfile": resolved.sources.dockerfile,
        } | {f"containers/{path}": digest for path, digest in resolved.sources.workload_files}
        layers.append(_layer("workload", kind="workload", parent=layers[-1].key, inputs=inputs))
    return tuple(layers)


def _layer(name: str, *, kind: str, parent: str, inputs: Mapping[str, str], **more: Any) -> Layer:
    key = digest_of([FORMAT, kind, parent, inputs])
    return Layer(name=name, kind=kind, key=key, parent=parent, inputs=inputs, **more)


# The layer input `target` covers the target's name, stack and summary; the name cannot change between builds.
_INPUT_LABELS = {"target": "stack or summary of the target"}


LOST = "no longer in the engine or the cache"


def explain(layer: Layer, before: Mapping[str, Mapping[str, Any]], *, lost: str = LOST) -> str:
    """Return why `layer` must be built; `before` has the layers of the target's last build by name.

    `lost` is the reason to return if the last build had a layer with the same key.
    """
    last = before.get(layer.name)
    if last is None:
        return "not built here before"
    if last["key"] == layer.key:
        return lost
    inputs = last["inputs"]
    changed = [
        _INPUT_LABELS.get(name, name)
        for name, digest in layer.inputs.items()
        if inputs.get(name, digest) != digest
    ]
    changed += [f"{name} (new)" for name in layer.inputs if name not in inputs]
    changed += [f"{name} (removed)" for name in inputs if name not in layer.inputs]
    if not changed:
        return "a layer below it changed" if last["parent"] != layer.parent else "key format changed"
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"changed: {', '.join(changed[:3])}{more}"


def to_rebuild(plan: Plan, names: Collection[str]) -> dict[str, str]:
    """Map the keys of the named layers, and of all layers above them, to the reason for a rebuild."""
    found: dict[str, str] = {}
    for layer in plan.layers:
        if layer.name in names:
            found[layer.key] = "requested by --rebuild"
        elif found:
            found[layer.key] = "a layer below it is rebuilt"
    return found


def to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values for screens, receipts and golden files."""
    return json.loads(json.dumps(dataclasses.asdict(plan), default=str))  # type: ignore[no-any-return]


def variables_of(plan: Plan) -> dict[str, Value]:
    """Return the role variables of all layers; names cannot collide because each has its role's prefix."""
    return {key: value for layer in plan.layers for key, value in layer.variables.items()}
