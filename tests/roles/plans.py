"""Plans of single components, made as all plans are; stand-ins bring pins and a lock of their own."""

import dataclasses
import hashlib
import importlib
import subprocess
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from builder import catalog, lock, plan, sources
from builder.errors import UsageError
from builder.lock import Entry, Lock, Want
from builder.members import closure
from builder.model import Catalog, Flavour, Layer, Plan, System, Target, Value
from builder.plan import variables_of
from builder.stack import loading
from builder.tables import did_you_mean
from tests.standins import amazon_linux
from tests.standins.site import Site

ROOT = Path(__file__).resolve().parents[2]
STANDINS = ROOT / "tests" / "standins"


def standin_pins() -> dict[str, str]:
    """The versions that the stand-ins play."""
    path = STANDINS / "stack.toml"
    pins: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))["pins"] if path.exists() else {}
    return pins


def has_standin(component: str) -> bool:
    return (STANDINS / f"{component}.py").is_file()


def build_standin(site: Site, name: str) -> None:
    """Has a stand-in write what its vendor serves, and what its base has before the role comes."""
    if has_standin(name):
        module = importlib.import_module(f"tests.standins.{name}")
        module.build(site)
        site.base |= module.base(site) if hasattr(module, "base") else {}


def machine_of(system: System) -> System:
    """What a machine that plays the system is made of."""
    return (
        amazon_linux.machine(catalog.load(ROOT).systems["debian-12"]) if system.family == "redhat" else system
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to try: which components on which system, and what is different from the catalog."""

    components: Sequence[str]
    kind: str = "ami"
    system: str = "debian-12"
    stack: str = "cuda-11.8-debian-12"
    arch: str = "x86_64"
    pins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, Value] = dataclasses.field(default_factory=dict)


def load_catalog() -> Catalog:
    """The catalog, with a system that is played by another one."""
    loaded = catalog.load(ROOT)
    pretended = amazon_linux.pretend(loaded.systems["debian-12"])
    return dataclasses.replace(loaded, systems={**loaded.systems, pretended.name: pretended})


def load(wanted: Wanted) -> tuple[Catalog, Target]:
    """The catalog with the pins replaced, and a target that is not in it."""
    loaded = load_catalog()
    for name in wanted.components:
        if name not in loaded.components:
            near = did_you_mean(name, loaded.components)
            raise UsageError(f"no component '{name}'{near}", hint="ls catalog/components")
    stack = loaded.stacks[wanted.stack]
    stack = dataclasses.replace(stack, pins={**stack.pins, **wanted.pins})
    for name in closure(loaded, wanted.components):
        if loaded.components[name].pinned and name not in stack.versions:
            raise UsageError(
                f"stack '{stack.name}' has no pin for component '{name}'",
                hint=f"pin it in catalog/stacks/{stack.name}.toml, or for --standins in"
                " tests/standins/stack.toml",
            )
    flavour = Flavour(name="roles", summary="", system=wanted.system, stack=stack.name)
    target = Target(
        name="roles",
        summary="",
        kind=wanted.kind,
        components=tuple(wanted.components),
        flavours={flavour.name: flavour},
        variables=wanted.variables,
    )
    return dataclasses.replace(loaded, stacks={**loaded.stacks, stack.name: stack}), target


def make(wanted: Wanted, site: Site | None) -> Plan:
    """The plan, locked by what the site serves, or by the catalog's lock where there is none."""
    loaded, target = load(wanted)
    if site is None:
        locked = lock.read(ROOT)
    else:
        if wanted.system == amazon_linux.NAME:
            build_standin(site, "amazon_linux")
        for name in closure(loaded, target.components):
            build_standin(site, name)
        loaded = _use_wheels(loaded, target, site)
        locked = lock_site(site, lock.wants(loaded, target, target.default, arch=wanted.arch))
    read = sources.read(ROOT, loaded, target, target.default)
    return plan.plan(loading.load(ROOT, loaded), target, target.default, read, locked, arch=wanted.arch)


def _use_wheels(loaded: Catalog, target: Target, site: Site) -> Catalog:
    """The catalog with the site's wheels as what the stack locks, where the site has any."""
    if not site.requirements:
        return loaded
    stack = loaded.stacks[target.default.stack]
    stack = dataclasses.replace(stack, requirements=tuple(sorted(site.requirements)))
    return dataclasses.replace(loaded, stacks={**loaded.stacks, stack.name: stack})


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lock_site(site: Site, wants: Iterable[Want]) -> Lock:
    """A lock of what a site serves, and of the archive behind the base; what nobody serves is an error."""
    entries, real = {}, lock.read(ROOT).entries
    for want in wants:
        if want.kind == "archive":
            path = site.url_file(want.subject)
            if not path.is_file():
                raise UsageError(f"no stand-in serves {want}", hint=f"it belongs to {want.owner}")
            values: dict[str, str | int] = {"sha256": sum_of(path), "size": path.stat().st_size}
        elif want.kind == "git":
            url, ref = want.subject.split(" ")
            argv = ["git", "-C", str(site.url_file(url)), "rev-parse", f"{ref}^{{commit}}"]
            values = {
                "commit": subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
            }
        else:
            if want in real:
                entries[want] = real[want]
            continue
        entries[want] = Entry(values=values, verified=True)
    return Lock(entries=entries)


def one_layer(plan: Plan) -> Layer:
    """All components of a plan as what one play applies."""
    return Layer(
        name="roles",
        kind="components",
        key=plan.key,
        parent=plan.layers[0].key,
        inputs={},
        components=plan.components,
        variables=variables_of(plan),
    )
