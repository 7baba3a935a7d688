"""The launch file of each launcher: file name, and content as text or JSON document."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from builder.launch import batch, kubernetes, shell
from builder.launch.job import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchFile:
    """File that a user submits: a text, or the document of a YAML or JSON file."""

    name: str
    content: str | dict[str, Any]
    submit: str  # command that submits it


def render(service: str, job: Job) -> LaunchFile:
    return _RENDERERS[service](job)


def _sbatch(job: Job, *, has_auto_resume: bool = False) -> LaunchFile:
    name = f"{job.image.target}.sbatch"
    text = shell.sbatch(job, has_auto_resume=has_auto_resume)
    return LaunchFile(name=name, content=text, submit=f"sbatch {name}")


def _docker(job: Job) -> LaunchFile:
    name = f"{job.image.target}.sh"
    return LaunchFile(name=name, content=shell.docker(job), submit=f"sh {name}")


def _kubernetes(job: Job, *, is_hyperpod: bool = False) -> LaunchFile:
    name = f"{job.image.target}.yaml"
    content = kubernetes.document(job, is_hyperpod=is_hyperpod)
    submit = f"kubectl apply -f {name}"
    if job.kind == "raycluster":
        # `ray job submit` starts the program. The operator gives the head service this name.
        head = f"http://{job.image.target}-head-svc:8265"
        submit += f"; ray job submit --address {head} -- {shlex.join(job.program)}"
    return LaunchFile(name=name, content=content, submit=submit)


def _batch(job: Job) -> LaunchFile:
    name = f"{job.image.target}.json"
    submit = f"aws batch register-job-definition --cli-input-json file://{name}"
    return LaunchFile(name=name, content=batch.definition(job), submit=submit)


_RENDERERS: Mapping[str, Callable[[Job], LaunchFile]] = {
    "slurm": _sbatch,
    "docker": _docker,
    "kubernetes": _kubernetes,
    "batch": _batch,
    "hyperpod-slurm": partial(_sbatch, has_auto_resume=True),
    "hyperpod-eks": partial(_kubernetes, is_hyperpod=True),
    "pcs": _sbatch,
}
# Launchers that use Slurm, and launchers that use Kubernetes objects.
SLURM = ("slurm", "hyperpod-slurm", "pcs")
KUBERNETES = ("kubernetes", "hyperpod-eks")
