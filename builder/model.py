"""The nouns of the factory: frozen values that travel forward, argv to receipt.

Nothing here reads a file, asks a tool or keeps a reference to what made it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

# What a target makes; a component says which of them it may go into.
KINDS = ("ami", "container")

# A role's variable: what TOML can say and JSON can carry.
Value = str | int | float | bool | list["Value"] | dict[str, "Value"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """Something a role fetches; addresses may hold placeholders until they are resolved for a system.

    An archive is locked by sha256, git by its commit; what a repository holds is pinned by package
    version and signed by `key`.
    """

    name: str
    url: str
    kind: str = "archive"  # archive, git, repository
    ref: str = ""
    suite: str = ""
    components: tuple[str, ...] = ()
    signature: str = ""
    key: str = ""
    systems: tuple[str, ...] = ()  # distributions or families; () is all
    kinds: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()  # of the component, as a target sets them; () is any


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One thing that can be installed; a role of the same name does it."""

    name: str
    summary: str
    layer: str
    requires: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    pinned: bool = False
    brought_by: str = ""  # the component whose release decides its version where a stack does not pin it
    requirements: str = ""  # whose Python requirements it installs: "", stack or workload
    downloads: tuple[Download, ...] = ()
    variables: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Versions that were tested together; `without` has what it leaves out of its base, with the reasons."""

    name: str
    summary: str
    pins: Mapping[str, str]
    brought: Mapping[str, str] = field(default_factory=dict)  # component → version, by what is pinned
    without: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    requirements_file: str = ""
    wheel_index: str = ""
    origin: str = ""  # where the set was seen or how it was put together
    instances: tuple[str, ...] = ()  # EC2 types that it is for; () is any machine
    facts: Mapping[str, Value] = field(default_factory=dict)  # what else the rules judge it by

    @property
    def versions(self) -> dict[str, str]:
        """The version of every component that the stack decides about."""
        return {**self.brought, **self.pins}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """How a base image is made from a package archive."""

    suite: str
    packages: tuple[str, ...]
    areas: tuple[str, ...] = ("main",)  # of the archive, in the image's sources as well
    dpkg_options: tuple[str, ...] = ()

    @property
    def suites(self) -> tuple[str, ...]:
        """What the archive calls the release and its updates; the last two move, the first rarely."""
        return (self.suite, f"{self.suite}-updates", f"{self.suite}-security")


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiSource:
    """Which AMI an image starts from: a public parameter, or the newest of an owner by name.

    `parameter` and `name` may hold {arch} and {deb_arch}; the lock has the id for each region.
    """

    user: str
    regions: tuple[str, ...]
    parameter: str = ""
    owner: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One base operating system; `image` is a reference by tag where the base is pulled, locked by digest."""

    name: str
    summary: str
    distribution: str
    family: str
    release: str
    arches: tuple[str, ...]
    python: str
    codename: str = ""
    bootstrap: Bootstrap | None = None
    image: str = ""
    ami: AmiSource | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiShape:
    """How an AMI is made: the instance types to build on, by architecture, and its root volume.

    Some services refuse an encrypted image; elsewhere the site decides.
    """

    build_on: Mapping[str, str]
    volume_gib: int
    minutes: int  # that a build takes, about
    dollars_per_hour: Mapping[str, float]  # of these instances, by architecture, about
    encryptable: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Flavour:
    """One form of a target: the system it stands on, the stack, and what only this form has."""

    name: str
    summary: str
    system: str
    stack: str
    site: str = ""  # local: not the default in an account
    policy: Mapping[str, str] = field(default_factory=dict)  # component → what its role does with the base's
    components: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Something a user can ask for by name, in one flavour or several; the first is the default."""

    name: str
    summary: str
    kind: str
    components: tuple[str, ...]
    flavours: Mapping[str, Flavour]
    if_pinned: tuple[str, ...] = ()  # components that belong to it wherever the stack has a version of them
    workload: str = ""
    ami: AmiShape | None = None
    variables: Mapping[str, Value] = field(default_factory=dict)

    @property
    def default(self) -> Flavour:
        return next(iter(self.flavours.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One EC2 type, as far as versions and prices depend on it; None is unknown."""

    name: str
    family: str
    accelerator: str
    accel: str
    arch: str
    gdr: bool
    nvswitch: str
    gpu_sm: int | None = None
    count: int | None = None
    memory_gib: int | None = None
    vcpus: int | None = None
    efa: int | None = None
    cards: int | None = None
    gbps: int | None = None
    dollars_per_hour: float | None = None
    boot_modes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Everything that exists, cross-checked."""

    components: Mapping[str, Component]
    stacks: Mapping[str, Stack]
    systems: Mapping[str, System]
    targets: Mapping[str, Target]
    instances: Mapping[str, Instance]
    layers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One step of an image: what goes in, and the key that says whether it already exists."""

    name: str
    kind: str  # base, components, workload
    key: str
    parent: str  # key of the layer below; "" for the base
    inputs: Mapping[str, str]  # digest of everything else that decides the key, by what a person calls it
    components: tuple[str, ...] = ()
    variables: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One suite of a package archive as it was locked: its signed list, of when that is, when it was seen."""

    name: str
    sha256: str
    date: str = ""
    snapshot: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A target resolved: everything a build will do, known before anything runs."""

    target: Target
    flavour: Flavour
    system: System
    stack: Stack
    arch: str
    components: tuple[str, ...]
    capabilities: Mapping[str, Value]
    versions: Mapping[str, str]
    layers: tuple[Layer, ...]
    checks: str  # digest of the checks that belong to the plan
    base_image: str = ""  # where the base is pulled from, by digest
    suites: tuple[Suite, ...] = ()  # what the base is made from, where it is bootstrapped
    unlocked: tuple[str, ...] = ()  # downloads that the lock does not answer for: such a plan is not built
    unverified: tuple[str, ...] = ()  # downloads whose digest nobody has compared with the bytes yet
    workload_files: tuple[PurePosixPath, ...] = ()
    # The verdict of the rules; no part of a key.
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a job, by EC2 type ("*": any)
    warnings: tuple[str, ...] = ()  # ids of rules
    errors: tuple[str, ...] = ()  # why the rules refuse it: such a plan is not built

    @property
    def key(self) -> str:
        return self.layers[-1].key


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerResult:
    """What became of one layer: `outcome` is built, pulled or reused, and `reason` says why."""

    name: str
    key: str
    outcome: str
    reason: str
    image: str
    seconds: float = 0.0
    size_bytes: int = 0
    components: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """What came out of a build; `reference` is what the engine or EC2 calls it."""

    kind: str
    target: str
    reference: str
    key: str
    layers: tuple[LayerResult, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check on one artifact; `outcome` is passed, failed or skipped."""

    name: str
    component: str
    outcome: str
    seconds: float
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The outcome of the checks on one artifact, with every skip accounted for."""

    reference: str
    checks: tuple[Check, ...]
    seconds: float

    def count(self, outcome: str) -> int:
        return sum(check.outcome == outcome for check in self.checks)

    @property
    def passed(self) -> bool:
        return self.count("failed") == 0 and self.count("passed") > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """Where an artifact went, by digest."""

    name: str  # registry/repository@sha256:...
    digest: str
    tags: tuple[str, ...] = ()
    pushed_bytes: int = 0
    reused_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """The one interface for whatever comes after a build."""

    run: str
    created: str
    commit: str
    plan: Plan
    artifact: Artifact
    report: Report | None = None
    publications: tuple[Publication, ...] = ()
