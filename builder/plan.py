"""Turns a target into a plan: ordered components, variables, versions and the key of every layer.

Pure: the same catalog and sources give the same plan, whatever the machine, the clock or the network say.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from builder.downloads import downloads_of
from builder.errors import UsageError
from builder.lock import FIELDS, LOCAL, Lock, Want, as_variable, wants
from builder.members import members_of, policy_of, settings_of
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
from builder.tables import did_you_mean

# Part of every key: raise it when the way a layer is made changes its contents.
FORMAT = 4


def find_target(catalog: Catalog, name: str) -> Target:
    if name not in catalog.targets:
        raise UsageError(f"no target '{name}'{did_you_mean(name, catalog.targets)}", hint="builder list")
    return catalog.targets[name]


def find_flavour(target: Target, name: str = "", *, site: str = LOCAL) -> Flavour:
    """The flavour that was asked for by name, else the default of the site."""
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


def plan(
    catalog: Catalog,
    target: Target,
    flavour: Flavour,
    sources: Sources,
    lock: Lock,
    *,
    arch: str,
    site: str = LOCAL,
) -> Plan:
    """The plan of one flavour for one architecture, here or in an account."""
    system = catalog.systems[flavour.system]
    stack = catalog.stacks[flavour.stack]
    if arch not in system.arches:
        raise UsageError(
            f"target '{target.name}': system '{system.name}' is not built for {arch}"
            f" (it is for {', '.join(system.arches)})",
            hint="builder show " + target.name,
        )
    components = members_of(catalog, target, flavour)
    abilities = capabilities(system, stack, kind=target.kind, arch=arch)
    wanted = wants(catalog, target, flavour, arch=arch, site=site)
    per_role = {
        name: _variables(
            catalog.components[name], components, target, flavour, system, stack, sources, lock, arch
        )
        for name in components
    }
    image = lock.value("image", f"{system.image} {arch}")
    return Plan(
        target=target,
        flavour=flavour,
        system=system,
        stack=stack,
        arch=arch,
        components=components,
        capabilities=abilities,
        versions=_versions(catalog, stack, components, sources),
        layers=_layers(
            catalog,
            target,
            stack,
            components,
            abilities,
            per_role,
            sources,
            _base_layer(wanted, system, lock, arch),
        ),
        checks=sources.checks,
        base_image=f"{system.image.rpartition(':')[0]}@{image}" if image else "",
        suites=tuple(_suites(wanted, lock)),
        unlocked=tuple(f"{want} ({want.owner})" for want in wanted if not _is_locked(want, lock, sources)),
        unverified=tuple(
            str(want) for want in wanted if want in lock.entries and not lock.entries[want].verified
        ),
        workload_files=tuple(PurePosixPath(path) for path, _ in sources.workload_files),
    )


def _is_locked(want: Want, lock: Lock, sources: Sources) -> bool:
    found = lock.value(want.kind, want.subject)
    return found == sources.requirements[want.subject] if want.kind == "requirements" else bool(found)


def _suites(wanted: Iterable[Want], lock: Lock) -> Iterable[Suite]:
    for want in wanted:
        if want.kind == "suite":
            values = {name: lock.value("suite", want.subject, name) for name in FIELDS["suite"]}
            yield Suite(name=want.subject.partition(" ")[2], **values)


def _base_layer(wanted: Iterable[Want], system: System, lock: Lock, arch: str) -> Layer:
    """The base and all that decides it: its recipe, and what the lock says of where it comes from."""
    recipe = {"image": system.image, "bootstrap": system.bootstrap and dataclasses.asdict(system.bootstrap)}
    inputs = {f"system {system.name}": digest_of([arch, recipe])}
    kinds = ("ami", "suite", "image")
    inputs |= {str(want): lock.value(want.kind, want.subject) for want in wanted if want.kind in kinds}
    return _layer("base", kind="base", parent="", inputs=inputs)


def capabilities(system: System, stack: Stack, *, kind: str, arch: str) -> dict[str, Value]:
    """What a role may ask about the machine it runs on; it may ask nothing else.

    A stack names the whole release of its kernel, or its series: then the base's own kernel is meant, which
    the play finds, and which the lock decides with the base.
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


def _versions(
    catalog: Catalog, stack: Stack, components: tuple[str, ...], sources: Sources
) -> dict[str, str]:
    """Every version that the image promises: pinned components and Python packages."""
    versions = {name: stack.versions[name] for name in components if catalog.components[name].pinned}
    for name in components:
        for line in _requirements(catalog.components[name], stack, sources):
            package, _, version = line.split()[0].partition("==")
            versions[re.sub(r"[-_.]+", "-", package).lower()] = version.rstrip(";")
    return versions


def _requirements(component: Component, stack: Stack, sources: Sources) -> tuple[str, ...]:
    return {"": (), "stack": stack.requirements, "workload": sources.workload_requirements}[
        component.requirements
    ]


def _variables(
    component: Component,
    components: Iterable[str],
    target: Target,
    flavour: Flavour,
    system: System,
    stack: Stack,
    sources: Sources,
    lock: Lock,
    arch: str,
) -> dict[str, Value]:
    """The variables of one role: version, requirements, downloads, the component's own, then the target's."""
    name = component.name
    variables: dict[str, Value] = {}
    if component.pinned:
        variables[f"{name}_version"] = stack.versions[name]
    if component.requirements:
        variables[f"{name}_requirements"] = list(_requirements(component, stack, sources))
    if component.downloads:
        found = downloads_of(
            component,
            stack=stack,
            system=system,
            kind=target.kind,
            policy=policy_of(name, target, flavour),
            arch=arch,
        )
        variables[f"{name}_downloads"] = {download.name: as_variable(download, lock) for download in found}
    variables |= component.variables
    variables |= {
        key: value for key, value in settings_of(target, flavour).items() if owner(key, components) == name
    }
    return variables


def owner(variable: str, components: Iterable[str]) -> str:
    """The component whose prefix a variable carries; the longest name wins (`python_env` over `python`)."""
    return max((name for name in components if variable.startswith(f"{name}_")), key=len, default="")


def _layers(
    catalog: Catalog,
    target: Target,
    stack: Stack,
    components: tuple[str, ...],
    abilities: Mapping[str, Value],
    per_role: Mapping[str, Mapping[str, Value]],
    sources: Sources,
    base: Layer,
) -> tuple[Layer, ...]:
    """base, then one layer per group of components, then the workload; each key covers what lies below."""
    layers = [base]
    for name, group in groupby(components, key=lambda c: catalog.components[c].layer):
        members = tuple(group)
        layers.append(
            _layer(
                name,
                kind="components",
                parent=layers[-1].key,
                inputs={"runner": sources.runner, "capabilities": digest_of(abilities)}
                | {f"role {member}": sources.roles[member] for member in members}
                | {f"variables of {member}": digest_of(per_role[member]) for member in members},
                components=members,
                variables={key: value for member in members for key, value in per_role[member].items()},
            )
        )
    if target.workload:
        inputs = {
            "target": digest_of([target.name, stack.name]),
            f"containers/{target.workload}/Dockerfile": sources.dockerfile,
        } | {f"containers/{path}": digest for path, digest in sources.workload_files}
        layers.append(_layer("workload", kind="workload", parent=layers[-1].key, inputs=inputs))
    return tuple(layers)


def _layer(name: str, *, kind: str, parent: str, inputs: Mapping[str, str], **more: Any) -> Layer:
    key = digest_of([FORMAT, kind, parent, inputs])
    return Layer(name=name, kind=kind, key=key, parent=parent, inputs=inputs, **more)


def explain(layer: Layer, before: Mapping[str, Mapping[str, Any]]) -> str:
    """Why `layer` has to be made, given the layers of the last build of its target by name."""
    last = before.get(layer.name)
    if last is None:
        return "not built here before"
    if last["key"] == layer.key:
        return "no longer in the engine or the cache"
    inputs = last["inputs"]
    changed = [name for name, digest in layer.inputs.items() if inputs.get(name, digest) != digest]
    changed += [f"{name} (new)" for name in layer.inputs if name not in inputs]
    changed += [f"{name} (gone)" for name in inputs if name not in layer.inputs]
    if not changed:
        return "a layer below it changed" if last["parent"] != layer.parent else "format changed"
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"changed: {', '.join(changed[:3])}{more}"


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values, for screens, receipts and golden files."""
    return json.loads(json.dumps(dataclasses.asdict(plan), default=str))  # type: ignore[no-any-return]


def variables_of(plan: Plan) -> dict[str, Value]:
    """All role variables of a plan; names cannot collide, each carries its role's prefix."""
    return {key: value for layer in plan.layers for key, value in layer.variables.items()}
