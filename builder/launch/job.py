"""A job: a published image, its [launch] section and an EC2 type, checked for compatibility.

Pure. Raises IncompatibleError if the EC2 type or the launcher cannot run the job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from builder.errors import IncompatibleError
from builder.launch.section import LAUNCHERS
from builder.model import Instance, Launch

PORT = 29500  # of the rendezvous, on the first node
HEAD = "JAX_COORDINATOR_ADDRESS"  # variable with the address of the first node, as JAX reads it
MOST_NODES = 5000
_MEMORY_SHARE = 0.9  # of the instance's memory; the rest is for the operating system and agents
# Driver capabilities for the NVIDIA container runtime, whose default (`utility`) lacks CUDA.
_CAPABILITIES = ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """Published image that passed its checks, as its receipt describes it."""

    name: str  # registry/repository@sha256:…
    target: str
    flavour: str
    key: str
    run: str
    created: str
    arch: str
    accelerator: str  # nvidia, neuron or none
    instances: tuple[str, ...] = ()  # EC2 types of its stack; () means any

    @property
    def repository(self) -> str:
        return self.name.partition("@")[0]

    @property
    def digest(self) -> str:
        """Return the digest of the image without the prefix `sha256:`."""
        return self.name.rpartition(":")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """Options of `builder launch`; 0 processes means one per accelerator."""

    nodes: int = 1
    processes: int = 0
    kind: str = ""  # of the Kubernetes object; "" means that of the runner
    is_squashfs: bool = False
    has_runtime: bool = True  # False: start the program from an unpacked image
    folders: Mapping[str, str] = field(default_factory=dict)  # name of a mount → folder on the nodes
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All values of a launch file."""

    image: Image
    launch: Launch
    instance: Instance
    nodes: int
    processes: int  # per node
    environment: Mapping[str, str]
    unset: tuple[str, ...]
    capabilities: tuple[str, ...]
    folders: Mapping[str, str]  # path in the container → folder on the nodes
    kind: str
    is_squashfs: bool
    has_runtime: bool
    arguments: tuple[str, ...]

    @property
    def gpus(self) -> int:
        return self.instance.count or 0 if self.instance.accel == "nvidia" else 0

    @property
    def neuron_devices(self) -> int:
        return self.instance.count or 0 if self.instance.accel == "neuron" else 0

    @property
    def efa(self) -> int:
        """Return the number of EFA interfaces per node; 0 for a single node."""
        return self.instance.efa or 0 if self.nodes > 1 else 0

    @property
    def memory_mib(self) -> int:
        return int((self.instance.ram_gib or 0) * 1024 * _MEMORY_SHARE)

    @property
    def devices(self) -> list[str]:
        """Return the Neuron and EFA device files that a container needs."""
        neuron = [f"/dev/neuron{i}" for i in range(self.neuron_devices)]
        return neuron + [f"/dev/infiniband/uverbs{i}" for i in range(self.efa)]

    @property
    def program(self) -> tuple[str, ...]:
        return (*self.launch.command, *self.arguments)

    @property
    def joins_nodes(self) -> bool:
        """Return True if each node gets RANK, WORLD_SIZE and the address of the first node."""
        return self.launch.runner == "node" and self.nodes > 1

    @property
    def header(self) -> list[str]:
        """Return comment lines with the target, receipt and image of a launch file."""
        nodes = f"{self.nodes} node{'s' if self.nodes > 1 else ''}"
        return [
            f"{self.image.target} ({self.image.flavour}) on {nodes} of type {self.instance.name}.",
            f"Written by builder launch from the receipt of run {self.image.run} ({self.image.created}).",
            f"Image: {self.image.name}",
            f"Key: {self.image.key}",
        ]


def squashfs_name(image: Image) -> str:
    """Return the file name of the image as a squashfs."""
    return f"{image.target}-{image.digest[:12]}.sqsh"


def make_job(
    image: Image, launch: Launch, instance: Instance, settings: Sequence[str], wish: Wish, *, service: str
) -> Job:
    """Return the job; `settings` are the plan's settings from compatibility rules."""
    if reason := obstacle(launch, service, nodes=wish.nodes):
        raise IncompatibleError(
            f"target '{image.target}' does not run on {LAUNCHERS[service]}: {reason}",
            hint=f"choose another launcher: builder launch {image.target} --help",
        )
    if service.startswith("hyperpod") and not instance.in_hyperpod:
        raise IncompatibleError(
            f"SageMaker HyperPod has no instances of type {instance.name}",
            hint="choose another type; catalog/instances.toml marks those that HyperPod lacks",
        )
    _require_fit(image, instance, any_accelerator=launch.any_instance)
    require_facts(instance)
    processes = wish.processes or (1 if launch.runner in ("node", "none") else processes_of(instance))
    _require_processes(image, launch, instance, nodes=wish.nodes, processes=processes)
    _require_memory(image, launch, instance)
    return Job(
        image=image,
        launch=launch,
        instance=instance,
        nodes=wish.nodes,
        processes=processes,
        environment=_environment(instance, settings, processes),
        unset=tuple(text.removeprefix("unset ") for text in settings if text.startswith("unset ")),
        capabilities=tuple(
            text.removeprefix("--cap-add=") for text in settings if text.startswith("--cap-add=")
        ),
        folders={
            path: wish.folders.get(name, f"/fsx/{image.target}/{name}")
            for name, path in launch.mounts.items()
        },
        kind=wish.kind,
        is_squashfs=wish.is_squashfs,
        has_runtime=wish.has_runtime,
        arguments=wish.arguments,
    )


def obstacle(launch: Launch, service: str, *, nodes: int) -> str:
    """Return why a launcher cannot start the program on this many nodes; "" if it can."""
    if service in launch.without:
        return launch.without[service]
    if launch.runner == "ray" and nodes > 1 and service not in ("kubernetes", "hyperpod-eks"):
        return "the operator of Kubernetes starts Ray on other nodes, and it has none"
    if launch.runner == "mpirun" and nodes > 1 and service in ("docker", "batch"):
        return "mpirun starts processes on other nodes through SSH servers, and it starts none"
    return ""


def processes_of(instance: Instance) -> int:
    """Return the processes per node: one per GPU or NeuronCore of the runtime, one on other types."""
    if instance.accel == "neuron":
        return (instance.neuron_cores or 0) // instance.cores_per_process
    return instance.count or 1


def most_processes(instance: Instance) -> int:
    """Return the largest number of processes per node."""
    return instance.vcpus or 1 if instance.accel == "none" else processes_of(instance)


def noun_of(instance: Instance) -> str:
    """Return the noun for the units that limit processes per node: GPUs, NeuronCores or vCPUs."""
    return {"nvidia": "GPUs", "neuron": "NeuronCores of the runtime", "none": "vCPUs"}[instance.accel]


def _require_fit(image: Image, instance: Instance, *, any_accelerator: bool) -> None:
    if instance.arch != image.arch:
        raise IncompatibleError(
            f"image of run {image.run} is for {image.arch}, but {instance.name} is {instance.arch}",
            hint=f"choose an {image.arch} type, or build '{image.target}' for {instance.arch}",
        )
    if instance.accel != image.accelerator and not any_accelerator:
        names = {"nvidia": "NVIDIA GPUs", "neuron": "NeuronCores", "none": "CPUs"}
        raise IncompatibleError(
            f"flavour '{image.flavour}' of '{image.target}' is for {names[image.accelerator]}, but"
            f" {instance.name} has {instance.accelerator if instance.accel != 'none' else 'no accelerator'}",
            hint=f"choose another type or flavour: builder show {image.target}",
        )
    if image.instances and instance.name not in image.instances:
        raise IncompatibleError(
            f"flavour '{image.flavour}' of '{image.target}' does not support {instance.name}"
            f" (supported: {', '.join(image.instances)})",
            hint=f"builder show {image.target}",
        )


def require_facts(instance: Instance) -> None:
    """Raise IncompatibleError if the catalog lacks a count of the type."""
    for name in ("count", "vcpus", "ram_gib", "efa"):
        if getattr(instance, name) is None:
            raise IncompatibleError(
                f"catalog/instances.toml: {instance.name}: {name} is unknown, and jobs need it",
                hint=f"add {name} to {instance.name} in catalog/instances.toml",
            )


def _require_processes(
    image: Image, launch: Launch, instance: Instance, *, nodes: int, processes: int
) -> None:
    most = most_processes(instance)
    if processes > most:
        raise IncompatibleError(
            f"--processes {processes}: {instance.name} has {most} {noun_of(instance)}",
            hint=f"--processes {most}",
        )
    if launch.runner == "none" and nodes * processes > 1:
        raise IncompatibleError(
            f"target '{image.target}' has the runner 'none', so it starts one process on one node",
            hint="--nodes 1 --processes 1",
        )
    if launch.runner == "node" and processes > 1:
        raise IncompatibleError(
            f"target '{image.target}' has the runner 'node', so it starts one process on each node",
            hint="--processes 1",
        )


def _require_memory(image: Image, launch: Launch, instance: Instance) -> None:
    ram = instance.ram_gib or 0
    if launch.shared_memory_gib > ram // 2:
        raise IncompatibleError(
            f"target '{image.target}' needs {launch.shared_memory_gib} GiB of shared memory;"
            f" {instance.name} has {ram} GiB of memory in all",
            hint=f"choose a larger type than {instance.name}",
        )


def _environment(instance: Instance, settings: Sequence[str], processes: int) -> dict[str, str]:
    """Return the job's environment: rule settings, driver capabilities, threads and Neuron cores."""
    pairs = [text.partition("=") for text in settings if "=" in text and text.split("=")[0].isidentifier()]
    environment = {name: value for name, _, value in pairs}
    if instance.accel == "nvidia":
        environment.setdefault(*_CAPABILITIES)
    if instance.accel == "none":
        # torchrun sets OMP_NUM_THREADS to 1 for more than one process.
        cores = (instance.vcpus or 1) // instance.threads
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    if instance.accel == "neuron":
        environment.setdefault("NEURON_RT_VIRTUAL_CORE_SIZE", str(instance.cores_per_process))
    return environment
