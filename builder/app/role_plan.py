"""Computes plans for single components without a target."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from builder import plan, sources
from builder.app.context import Context
from builder.arch import of_this_machine
from builder.errors import UsageError
from builder.members import closure
from builder.model import Catalog, Flavour, Plan, Target, Value
from builder.stack.loading import load
from builder.tables import did_you_mean


@dataclass(frozen=True, kw_only=True)
class RoleRequest:
    """Options of `builder role`: components, system, stack, and overrides of the catalog."""

    components: Sequence[str]
    kind: str = "ami"
    system: str = ""  # default: default_system
    stack: str = ""  # default: default_stack
    pins: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Value] = field(default_factory=dict)


def role_plan(context: Context, request: RoleRequest) -> Plan:
    """Return the plan of the requested components and of all components that they require."""
    loaded, target = role_target(context.catalog, request)
    read = sources.read(context.root, loaded, target, target.default)
    return plan.plan(
        load(context.root, loaded), target, target.default, read, context.lock, arch=of_this_machine()
    )


def role_target(loaded: Catalog, request: RoleRequest) -> tuple[Catalog, Target]:
    """Return the catalog with the request's pins, and a temporary target with the request's components."""
    for name in request.components:
        _known(name, loaded.components, "component")
    system = _known(request.system or default_system(loaded), loaded.systems, "system")
    stack = loaded.stacks[_known(request.stack or default_stack(loaded), loaded.stacks, "stack")]
    stack = dataclasses.replace(stack, pins={**stack.pins, **request.pins})
    for name in closure(loaded, request.components):
        if loaded.components[name].pinned and name not in stack.versions:
            raise UsageError(
                f"stack '{stack.name}' has no pin for component '{name}'",
                hint=f"pass --pin {name}=VERSION, or another --stack",
            )
    first, *others = request.components
    flavour = Flavour(name="roles", summary="", system=system, stack=stack.name)
    target = Target(
        name="roles" if others else first,
        summary="",
        kind=request.kind,
        flavours={flavour.name: flavour},
        components=tuple(request.components),
        variables=request.variables,
    )
    return dataclasses.replace(loaded, stacks={**loaded.stacks, stack.name: stack}), target


def default_system(loaded: Catalog) -> str:
    """Return the first system that can be built on this machine."""
    for system in loaded.systems.values():
        if system.bootstrap is not None:
            return system.name
    raise UsageError(
        "no system of the catalog can be built on this machine", hint="pass --system NAME and --image REF"
    )


def default_stack(loaded: Catalog) -> str:
    """Return the stack with the most pins among the stacks of targets on the default system."""
    system = default_system(loaded)
    flavours = [flavour for target in loaded.targets.values() for flavour in target.flavours.values()]
    names = {flavour.stack for flavour in flavours if flavour.system == system}
    if not names:
        raise UsageError(f"no target has a stack for system '{system}'", hint="pass --stack NAME")
    return max(sorted(names), key=lambda name: len(loaded.stacks[name].versions))


def _known(name: str, names: Mapping[str, object], noun: str) -> str:
    if name not in names:
        raise UsageError(f"no {noun} '{name}'{did_you_mean(name, names)}", hint=f"ls catalog/{noun}s")
    return name
