"""Frozen data classes that the modules exchange, from the catalog to the receipt of a build.

Contains no I/O: this module reads no files and runs no programs.
"""

from collections.abc import Mapping
from dataclasses import field
from pathlib import PurePosixPath

from builder.values import dataclass

# Kinds of target; a component lists the kinds that it supports.
KINDS = ("ami", "container")

# Value of a role variable: the types that both TOML and JSON support.
Value = str | int | float | bool | list["Value"] | dict[str, "Value"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """Download of a role; URLs may contain placeholders until they are resolved for a system.

    Archives are locked by sha256 and git sources by commit. Packages of a repository are pinned by version
    and their signatures are verified with `key`.
    """

    name: str
    url: str
    kind: str = "archive"  # archive, git, repository
    ref: str = ""
    suite: str = ""
    components: tuple[str, ...] = ()
    signature: str = ""
    key: str = ""
    signed_lists: bool = False  # whether the vendor signs the lists of a dnf repository; apt requires it
    systems: tuple[str, ...] = ()  # distributions or families; () means all
    kinds: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()  # policies of the component that need the download; () means any
    older_than: str = ""  # versions of the component below this one have `older_url`
    older_url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """Installable component; the Ansible role of the same name installs it."""

    name: str
    summary: str
    layer: str
    requires: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    pinned: bool = False
    brought_by: str = ""  # the component that bundles this one, if a stack does not pin it
    requirements: str = ""  # source of the Python requirements that it installs: "", stack or workload
    source_packages: tuple[str, ...] = ()  # requirements of Python packages that are built in the image
    downloads: tuple[Download, ...] = ()
    variables: Mapping[str, Value] = field(default_factory=dict)
    checkpoint: bool = False  # whether builds of AMIs keep an intermediate image after the component's layer


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Set of versions tested together; `without` maps omitted entries of the base stack to reasons."""

    name: str
    summary: str
    pins: Mapping[str, str]
    brought: Mapping[str, str] = field(
        default_factory=dict
    )  # versions of components bundled with pinned ones
    without: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    requirements_file: str = ""
    wheel_index: str = ""
    origin: str = ""  # source of the set of versions
    instances: tuple[str, ...] = ()  # EC2 types that it supports; () means any
    facts: Mapping[str, Value] = field(default_factory=dict)  # further inputs of the compatibility rules

    @property
    def versions(self) -> dict[str, str]:
        """Return the versions of all pinned and bundled components."""
        return {**self.brought, **self.pins}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """Recipe of a base image that is bootstrapped from a package archive."""

    suite: str
    packages: tuple[str, ...]
    areas: tuple[str, ...] = ("main",)  # archive areas, also written to the image's package sources
    dpkg_options: tuple[str, ...] = ()

    @property
    def suites(self) -> tuple[str, ...]:
        """Return the archive's suites: the release (rarely changes), its updates and its security updates."""
        return (self.suite, f"{self.suite}-updates", f"{self.suite}-security")


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiSource:
    """Source AMI of a system: a public SSM parameter, or an owner and a name pattern (newest match).

    `parameter` and `name` may contain {arch} and {deb_arch}; the lock has the AMI id per region. Published
    AMIs of the system get `tags`, for services that compare the tags of an AMI with their own version.
    """

    user: str
    regions: tuple[str, ...]
    parameter: str = ""
    owner: str = ""
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """Base operating system; `image` is the tag of a pulled base image, whose digest is in the lock."""

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
    contains: tuple[str, ...] = ()  # components that the pulled base image has
    distributions: Mapping[str, str] = field(default_factory=dict)  # its Python distributions → version
    ami: AmiSource | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiShape:
    """Build settings of an AMI target: instance types by architecture, size of the root volume.

    `encryptable` is False for services that refuse encrypted AMIs; otherwise the site's settings decide.
    """

    build_on: Mapping[str, str]
    volume_gib: int
    minutes: int  # approximate duration of a build
    dollars_per_hour: Mapping[str, float]  # approximate price of `build_on`, by architecture
    encryptable: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Command line of a training image on one machine, before the user's arguments.

    `mounts` has the path in the container for each name; the caller chooses the folder of the host.
    `without` has the reason for each launcher that cannot start the program.
    """

    runner: str  # key of RUNNERS: program that starts one process per accelerator, or "node", or "none"
    command: tuple[str, ...]
    first_run: tuple[str, ...] = ()  # arguments of a short run that shows that the image works
    mounts: Mapping[str, str] = field(default_factory=dict)
    shared_memory_gib: int = 1
    folder: str = "/opt/workload"  # working directory of the image, for services that do not read it
    without: Mapping[str, str] = field(default_factory=dict)
    any_instance: bool = False  # the program needs no library for the accelerators of the instances


@dataclass(frozen=True, kw_only=True, slots=True)
class Flavour:
    """Variant of a target: its system, its stack, and the components and policies that only it has."""

    name: str
    summary: str
    system: str
    stack: str
    site: str = ""  # "local": never the default for --site aws
    policy: Mapping[str, str] = field(
        default_factory=dict
    )  # component → value of its role's variable <component>_policy
    components: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Named image that a user can build, in one or more flavours; the first flavour is the default."""

    name: str
    summary: str
    kind: str
    components: tuple[str, ...]
    flavours: Mapping[str, Flavour]
    if_pinned: tuple[str, ...] = ()  # components included only if the stack has a version of them
    workload: str = ""
    ami: AmiShape | None = None
    launch: Launch | None = None
    variables: Mapping[str, Value] = field(default_factory=dict)

    @property
    def default(self) -> Flavour:
        return next(iter(self.flavours.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """EC2 type with the properties that versions and prices depend on; None means unknown."""

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
    efa_from: int = 0  # first network card with EFA
    cards: int | None = None
    gbps: int | None = None
    ram_gib: int | None = None
    threads: int = 2  # per core
    nvme_gb: int = 0
    neuron_cores: int | None = None
    cores_per_process: int = 1  # NeuronCores
    nvlinks: int = 0  # per GPU, if there are several
    nvlink_gb_s: int = 0  # of one link in one direction
    in_hyperpod: bool = True
    dollars_per_hour: float | None = None
    boot_modes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """All components, stacks, systems, targets and EC2 types, cross-checked."""

    components: Mapping[str, Component]
    stacks: Mapping[str, Stack]
    systems: Mapping[str, System]
    targets: Mapping[str, Target]
    instances: Mapping[str, Instance]
    layers: tuple[str, ...]
    snapshot_dollars: float = 0.0  # price of a GiB of snapshots for a month; 0 if unknown
    aliases: Mapping[str, str] = field(default_factory=dict)  # further names of targets → target
    # Problems of the entries that are left out, by catalog file, including problems of their dependencies.
    broken: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Layer of an image: its contents, and the key by which a build finds an existing layer."""

    name: str
    kind: str  # base, components, workload
    key: str
    parent: str  # key of the layer below; "" for the base
    inputs: Mapping[str, str]  # readable name → digest of each further input of the key
    components: tuple[str, ...] = ()
    variables: Mapping[str, Value] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of the image's configuration
    checkpoint: bool = False  # whether builds keep an intermediate image of an AMI after this layer


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Locked suite of a package archive: hash and date of its InRelease file, time of its snapshot."""

    name: str
    sha256: str
    date: str = ""
    snapshot: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Resolved target: all inputs of a build, computed before anything runs."""

    target: Target
    flavour: Flavour
    system: System
    stack: Stack
    arch: str
    components: tuple[str, ...]
    capabilities: Mapping[str, Value]
    versions: Mapping[str, str]
    layers: tuple[Layer, ...]
    checks: str  # digest of the check files
    base_image: str = ""  # reference by digest if the base image is pulled
    suites: tuple[Suite, ...] = ()  # locked suites if the base image is bootstrapped
    unlocked: tuple[str, ...] = ()  # downloads without a valid lock entry; if any, the plan cannot be built
    unverified: tuple[str, ...] = ()  # downloads whose locked digest was not yet compared with the file
    workload_files: tuple[PurePosixPath, ...] = ()
    # Result of the compatibility rules; not an input of any key.
    settings: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # settings that jobs need, by EC2 type ("*": any)
    warnings: tuple[str, ...] = ()  # messages of the rules that warn
    errors: tuple[str, ...] = ()  # messages of the rules that fail; if any, the plan cannot be built

    @property
    def key(self) -> str:
        return self.layers[-1].key


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerResult:
    """Result of one layer; `outcome` is built, pulled or reused, and `reason` explains it."""

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
    """Result of a build; `reference` is the image id in the engine or the AMI id."""

    kind: str
    target: str
    reference: str
    key: str
    layers: tuple[LayerResult, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Result of one check; `outcome` is passed, failed or skipped."""

    name: str
    component: str
    outcome: str
    seconds: float
    message: str = ""

    @property
    def reason(self) -> str:
        """The first line of the check's message that pytest marks as the error, else the first line."""
        lines = [line.strip() for line in self.message.splitlines()]
        marked = (line[2:].strip() for line in lines if line.startswith("E "))
        return next(marked, lines[0] if lines else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Results of all checks of an artifact, including skipped checks with their reasons."""

    reference: str
    checks: tuple[Check, ...]
    seconds: float
    kept: tuple[str, ...] = ()  # how to enter and remove what --keep-failed kept of failed checks

    def count(self, outcome: str) -> int:
        return sum(check.outcome == outcome for check in self.checks)

    @property
    def passed(self) -> bool:
        return self.count("failed") == 0 and self.count("passed") > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """Published artifact: its name with digest, its tags and the transferred bytes."""

    name: str  # registry/repository@sha256:...
    digest: str
    tags: tuple[str, ...] = ()
    pushed_bytes: int = 0
    reused_bytes: int = 0
    seconds: float = 0.0
    run: str = ""  # name and time of the run that published it
    created: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Record of a build for later commands: plan, artifact, check report and publications."""

    run: str
    created: str
    commit: str
    plan: Plan
    artifact: Artifact
    report: Report | None = None
    publications: tuple[Publication, ...] = ()
    seconds: float = 0.0  # duration of the target's steps in the run; 0 if all of it was reused
