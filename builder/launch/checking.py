"""Compare a launch file with the job that its image and EC2 type require. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from builder.launch.job import MOST_NODES, Job, most_processes, noun_of, squashfs_name
from builder.launch.written import Written
from builder.reading import shortened

WHOLE = "whole file"
_NOUNS = {
    "gpus": "GPUs",
    "neuron_devices": "Neuron devices",
    "efa": "EFA interfaces",
}
# Words that `docker run`, sbatch, torchrun and a PyTorchJob accept instead of numbers.
_WORDS: Mapping[str, Sequence[str]] = {"gpus": ("all", "gpu"), "processes": ("auto", "cpu", "gpu")}
_SIZES = ("memory_gib", "shared_memory_gib")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A difference between a launch file and the requirements of its image or EC2 type."""

    place: str
    message: str
    hint: str


def findings(written: Written, job: Job, image_variables: Mapping[str, str]) -> list[Finding]:
    """Return errors in the image, counts, memory, devices, variables and mounts of a launch file."""
    return [
        *_image(written, job),
        *_numbers(written, job),
        *_counts(written, job),
        *_memory(written, job),
        *_devices(written, job),
        *_environment(written, job, image_variables),
        *_mounts(written, job),
    ]


def _image(written: Written, job: Job) -> Iterator[Finding]:
    allowed = {job.image.name, squashfs_name(job.image)}
    if job.has_runtime and not written.images:
        yield Finding(place=WHOLE, message="no image", hint=f"use {job.image.name}")
    for item in written.images:
        if item.value.rpartition("/")[2] not in {name.rpartition("/")[2] for name in allowed}:
            yield Finding(
                place=item.place,
                message=f"image {shortened(item.value, 200)} is not the one of run {job.image.run}",
                hint=f"use {job.image.name}",
            )


def _numbers(written: Written, job: Job) -> Iterator[Finding]:
    least = {
        "nodes": 1,
        "processes": 1,
        "gpus": min(1, job.gpus),
        "neuron_devices": min(1, job.neuron_devices),
    }
    for name, item in written.counts.items():
        found, noun = written.count(name), _NOUNS.get(name, name)
        kind = "size of memory" if name in _SIZES else "number"
        if found is None and item.value not in _WORDS.get(name, ()):
            yield Finding(
                place=item.place, message=f"{shortened(item.value)} is not a {kind}", hint=f"write a {kind}"
            )
        elif found is not None and kind == "number":
            most = MOST_NODES if name == "nodes" else math.inf
            if not (found.is_integer() and least.get(name, 0) <= found <= most):
                limits = f"1 to {most}" if name == "nodes" else f"{least.get(name, 0)} or more"
                yield Finding(
                    place=item.place,
                    message=f"{found:g} {noun}; a job has {limits}",
                    hint="correct the number",
                )


def _counts(written: Written, job: Job) -> Iterator[Finding]:
    has = {"gpus": job.gpus, "neuron_devices": job.neuron_devices, "efa": job.efa}
    for name, most in has.items():
        found = written.count(name)
        # Elsewhere, jobs name their Neuron devices and EFA interfaces, or get all of the node.
        is_counted = name == "gpus" or written.service == "kubernetes"
        if most and is_counted and name not in written.counts:
            yield Finding(place=WHOLE, message=f"no {_NOUNS[name]}", hint=f"ask for {most}")
        if found is not None and (found > most or (name == "efa" and found < most)):
            yield Finding(
                place=written.counts[name].place,
                message=f"{found:g} {_NOUNS[name]}; {job.instance.name} has {most}"
                + (" for jobs of one node" if name == "efa" and job.nodes == 1 else ""),
                hint=f"ask for {most}",
            )
    processes, most = written.count("processes"), most_processes(job.instance)
    if job.gpus:
        most = int(min(most, written.count("gpus") or most))
    if processes is not None and processes > most:
        yield Finding(
            place=written.counts["processes"].place,
            message=f"{processes:g} processes per node; the job has {most} {noun_of(job.instance)} there",
            hint=f"start {most} processes per node",
        )


def _memory(written: Written, job: Job) -> Iterator[Finding]:
    memory, ram = written.count("memory_gib"), job.instance.ram_gib or 0
    if memory is not None and memory >= ram:
        yield Finding(
            place=written.counts["memory_gib"].place,
            message=f"{memory:g} GiB of memory; {job.instance.name} has {ram}, and its system needs some",
            hint=f"ask for {job.memory_mib // 1024} GiB",
        )
    shared, needed = written.count("shared_memory_gib") or 0.0, job.launch.shared_memory_gib
    if written.service != "slurm" and shared < needed:
        item = written.counts.get("shared_memory_gib")
        yield Finding(
            place=item.place if item else WHOLE,
            message=f"{shared:g} GiB of shared memory; {job.image.target} needs {needed}",
            hint=f"ask for {needed} GiB",
        )


def _devices(written: Written, job: Job) -> Iterator[Finding]:
    if written.service not in ("docker", "batch"):
        return  # others pass all devices of the node, or count them
    named = [item.value for item in written.devices]
    for device in job.devices:
        if device not in named:
            yield Finding(
                place=WHOLE,
                message=f"device {device} is missing",
                hint="add it to the devices of the container",
            )
    for item in written.devices:
        known = item.value.startswith(("/dev/infiniband/", "/dev/neuron"))
        if known and item.value not in job.devices:
            yield Finding(
                place=item.place,
                message=f"device {shortened(item.value)}: {job.instance.name} has none for this job",
                hint="remove it",
            )


def _environment(written: Written, job: Job, image: Mapping[str, str]) -> Iterator[Finding]:
    required = {name: value for name, value in job.environment.items() if name != "OMP_NUM_THREADS"}
    if written.service == "slurm" and written.images and job.gpus:
        required["NVIDIA_VISIBLE_DEVICES"] = "all"
    for name, value in required.items():
        item = written.environment.get(name)
        found = item.value if item else image.get(name)
        if found is None:
            yield Finding(place=WHOLE, message=f"variable {name} is missing", hint=f"set {name}={value}")
        elif found != value:
            yield Finding(
                place=item.place if item else WHOLE,
                message=f"{name} is {shortened(found)}" + ("" if item else " in the image"),
                hint=f"set {name}={value}",
            )
    for name in job.unset:
        if name in written.environment or (name in image and name not in written.unset):
            item = written.environment.get(name)
            yield Finding(
                place=item.place if item else WHOLE,
                message=f"{name} is set" + ("" if item else " in the image"),
                hint=f"remove it, or unset {name}: the rules forbid it on {job.instance.name}",
            )
    for name in job.capabilities:
        if name not in written.capabilities and written.service != "slurm":
            yield Finding(
                place=WHOLE, message=f"capability {name} is missing", hint=f"add the capability {name}"
            )


def _mounts(written: Written, job: Job) -> Iterator[Finding]:
    for path in job.folders:
        if path not in written.mounts and job.has_runtime:
            yield Finding(
                place=WHOLE,
                message=f"no mount at {path}, so what the program writes there is lost with the container",
                hint=f"mount a folder of the shared file system at {path}",
            )
    for path, item in written.mounts.items():
        is_folder = written.service in ("slurm", "docker")  # elsewhere it is the name of a volume
        if is_folder and not item.value.startswith(("/", "$")):
            yield Finding(
                place=item.place,
                message=f"the folder {shortened(item.value)} at {path} is no absolute path",
                hint="mount a folder of the shared file system",
            )
