"""Read the values of a launch file that the user may have edited: image, counts, variables, mounts.

Pure. Each value has a place: the line of a script, or the path of keys in a YAML or JSON document.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from builder.launch.lexing import commands, split_options

# Units of Kubernetes are decimal without an i, those of Docker (lower case) never are.
_UNITS_GIB = {
    "": 2**-30,
    "k": 2**-20,
    "m": 2**-10,
    "g": 1,
    "Ki": 2**-20,
    "Mi": 2**-10,
    "Gi": 1,
    "Ti": 2**10,
    "Pi": 2**20,
    "M": 1e6 / 2**30,
    "G": 1e9 / 2**30,
    "T": 1e12 / 2**30,
    "P": 1e15 / 2**30,
}
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)
_RESOURCES = {
    "nvidia.com/gpu": "gpus",
    "aws.amazon.com/neuron": "neuron_devices",
    "vpc.amazonaws.com/efa": "efa",
}
_COUNTS = {
    "numNodes": "nodes",
    "completions": "nodes",
    "nprocPerNode": "processes",
    "numProcPerNode": "processes",
    "slotsPerWorker": "processes",
}
_TYPE_LABEL = "node.kubernetes.io/instance-type"


@dataclass(frozen=True, slots=True)
class Item:
    """A value of a launch file and the line or key path where it stands."""

    value: str
    place: str


@dataclass(slots=True)
class Written:
    """Values of a launch file; `counts` lacks the counts that the file does not state."""

    service: str  # slurm, docker, kubernetes or batch
    images: list[Item] = field(default_factory=list)
    instances: list[Item] = field(default_factory=list)
    environment: dict[str, Item] = field(default_factory=dict)
    unset: set[str] = field(default_factory=set)
    mounts: dict[str, Item] = field(default_factory=dict)  # by path in the container
    counts: dict[str, Item] = field(default_factory=dict)
    devices: list[Item] = field(default_factory=list)
    capabilities: set[str] = field(default_factory=set)
    runners: list[Item] = field(default_factory=list)
    has_container: bool = False  # of a Slurm job step
    programs: list[Item] = field(default_factory=list)  # first words of the commands, without the runner

    def count(self, name: str) -> float | None:
        """Return a count; None if the file does not state it as a finite number."""
        item = self.counts.get(name)
        found = float(item.value) if item and _NUMBER.fullmatch(item.value) else math.inf
        return found if math.isfinite(found) else None

    def add_count(self, name: str, value: object, place: str) -> None:
        self.counts.setdefault(name, Item(str(value), place))

    def add_size(self, name: str, text: str, place: str) -> None:
        """Add a memory size in GiB; text that is not a size stays as it is."""
        size = gib(text)
        self.add_count(name, text if size is None else size, place)


def read_command(words: Sequence[str], place: str, written: Written) -> None:
    """Read the process counts and the program from a runner's command line, such as torchrun."""
    found = list(words)
    if found[:2] == ["sh", "-c"]:
        found = found[4:]  # a script that starts its arguments, and its name
    if found[:1] == ["exec"]:
        found = found[1:]
    if found[:3] == ["python", "-m", "torch.distributed.run"]:
        found = ["torchrun", *found[3:]]
    if found and found[0] in ("torchrun", "mpirun"):
        written.runners.append(Item(found[0], place))
    if found[:1] == ["torchrun"]:
        options, found = split_options(found[1:])
        for name, value in options:
            # "$SLURM_JOB_NUM_NODES" and a range such as 1:4 are known only when the job runs.
            if name in ("--nproc-per-node", "--nnodes") and not {"$", ":"} & set(value):
                written.add_count("processes" if name == "--nproc-per-node" else "nodes", value, place)
    elif found[:1] == ["mpirun"]:
        _, found = split_options(found[1:], with_value=("-np", "-x", "--bind-to", "--map-by"))
    if found:
        written.programs.append(Item(found[0], place))


def read_document(document: Mapping[str, Any]) -> Written:
    """Return the values of a Kubernetes object or Batch job definition; raise ValueError for others."""
    if "jobDefinitionName" in document:
        written = Written("batch")
        _walk(document, "", written, _read_batch)
    elif "apiVersion" in document and "kind" in document:
        written = Written("kubernetes")
        _walk(document, "", written, _read_kubernetes)
    else:
        raise ValueError("is neither a Kubernetes object nor a job definition of AWS Batch")
    return written


def _walk(value: object, path: str, written: Written, read: Callable[..., None]) -> None:
    if isinstance(value, Mapping):
        read(value, path, written)
        for key, entry in value.items():
            _walk(entry, f"{path}.{key}".lstrip("."), written, read)
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            _walk(entry, f"{path}[{i}]", written, read)


def _tables(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _words(value: object) -> list[str]:
    return [str(word).replace("$$(", "$(") for word in value] if isinstance(value, list) else []


def _read_kubernetes(table: Mapping[str, Any], path: str, written: Written) -> None:
    """Read the values of one table in a Kubernetes object: a container, a pod or a job."""
    if isinstance(table.get("image"), str):
        written.images.append(Item(table["image"], f"{path}.image"))
    if (words := _words(table.get("command"))) and words[0] != "/usr/sbin/sshd":
        read_command(words, f"{path}.command", written)
    for entry in _tables(table.get("env")):
        written.environment[str(entry.get("name"))] = Item(str(entry.get("value", "")), f"{path}.env")
    for entry in _tables(table.get("volumeMounts")):
        written.mounts[str(entry.get("mountPath"))] = Item(str(entry.get("name")), f"{path}.volumeMounts")
    limits = table.get("limits")
    for key, value in limits.items() if isinstance(limits, Mapping) else ():
        if key in _RESOURCES:
            written.add_count(_RESOURCES[key], value, f"{path}.limits")
        elif key == "memory":
            written.add_size("memory_gib", str(value), f"{path}.limits.memory")
    for key, name in _COUNTS.items():
        if key in table:
            written.add_count(name, table[key], f"{path}.{key}".lstrip("."))
    if path.endswith(".Worker") and "replicas" in table:
        written.add_count("nodes", table["replicas"], f"{path}.replicas")
    if isinstance(table.get("workerGroupSpecs"), list):
        workers = [entry.get("replicas", 0) for entry in _tables(table["workerGroupSpecs"])]
        wrong = [n for n in workers if not isinstance(n, int)]
        written.add_count("nodes", wrong[0] if wrong else 1 + sum(workers), f"{path}.workerGroupSpecs")
    _read_pod(table, path, written)


def _read_pod(table: Mapping[str, Any], path: str, written: Written) -> None:
    selector, empty, capabilities = (table.get(key) for key in ("nodeSelector", "emptyDir", "capabilities"))
    if isinstance(selector, Mapping) and _TYPE_LABEL in selector:
        name = str(selector[_TYPE_LABEL]).removeprefix("ml.")
        written.instances.append(Item(name, f"{path}.nodeSelector"))
    if isinstance(empty, Mapping) and empty.get("medium") == "Memory" and "sizeLimit" in empty:
        written.add_size("shared_memory_gib", str(empty["sizeLimit"]), f"{path}.emptyDir.sizeLimit")
    if isinstance(capabilities, Mapping):
        written.capabilities |= set(_words(capabilities.get("add")))


def _read_batch(table: Mapping[str, Any], path: str, written: Written) -> None:
    """Read the values of one table in a Batch job definition: a container or node properties."""
    if isinstance(table.get("image"), str):
        written.images.append(Item(table["image"], f"{path}.image"))
    if words := _words(table.get("command")):
        is_script = words[0].endswith("sh") and len(words) > 2
        found = [line for _, line in commands(words[-1])][-1:] if is_script else [words]
        for line in found:
            read_command(line, f"{path}.command", written)
    if "instanceType" in table:
        written.instances.append(Item(str(table["instanceType"]), f"{path}.instanceType"))
    if "numNodes" in table:
        written.add_count("nodes", table["numNodes"], f"{path}.numNodes")
    for entry in _tables(table.get("environment")):
        written.environment[str(entry.get("name"))] = Item(str(entry.get("value")), f"{path}.environment")
    for entry in _tables(table.get("mountPoints")):
        written.mounts[str(entry.get("containerPath"))] = Item("", f"{path}.mountPoints")
    for entry in _tables(table.get("devices")):
        written.devices.append(Item(str(entry.get("hostPath")), f"{path}.devices"))
    for entry in _tables(table.get("resourceRequirements")):
        if entry.get("type") == "GPU":
            written.add_count("gpus", entry.get("value"), f"{path}.resourceRequirements")
        elif entry.get("type") == "MEMORY":
            written.add_size("memory_gib", f"{entry.get('value')}Mi", f"{path}.resourceRequirements")
    if "sharedMemorySize" in table:
        written.add_size("shared_memory_gib", f"{table['sharedMemorySize']}Mi", f"{path}.sharedMemorySize")


def gib(text: str) -> float | None:
    """Convert a size in the notation of Kubernetes or Docker to GiB; return None if it is not a size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]i|[kmgMGTP]?)b?", text.strip(), re.ASCII)
    return float(found[1]) * _UNITS_GIB[found[2]] if found else None
