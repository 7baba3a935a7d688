"""The inputs of each image that a build makes: its checkpoints, then its AMI."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.ami.access import Access
from builder.adapters.ami.kept import Kept
from builder.adapters.aws.account import Resource
from builder.checkpoints import CLEANUP, Checkpoint
from builder.model import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """An image that a build starts from: the source image, or a checkpoint with layers of the plan."""

    image: Resource
    text: str
    depth: int = 1  # number of the plan's layers in the image, the base included
    seconds: float = 0.0  # time to build these layers


def source(image: Resource) -> Start:
    return Start(image=image, text=f"{image['ImageId']} ({image.get('Name', '')})")


def checkpointed(found: Kept, *, seconds: float) -> Start:
    checkpoint = found.checkpoint
    text = f"checkpoint {found.ami} after layer {checkpoint.name}"
    return Start(image=found.image, text=text, depth=len(checkpoint.layers), seconds=seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Inputs of one image: plan, components, start, names, tags, working folder and SSH access."""

    plan: Plan
    name: str  # of the step: "image", or the layer of a checkpoint
    kind: str  # of the journal entry
    key: str
    components: tuple[str, ...]
    start: Start
    image_name: str
    description: str
    tags: Mapping[str, str]
    folder: Path
    access: Access

    @property
    def step(self) -> str:
        return f"{self.plan.target.name}/{self.name}"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"


def image_job(
    plan: Plan, start: Start, *, run: str, tags: Mapping[str, str], folder: Path, access: Access
) -> Job:
    return Job(
        plan=plan,
        name="image",
        kind="image",
        key=plan.key,
        components=_after(plan, start),
        start=start,
        image_name=image_name(plan, run),
        description=f"{plan.target.summary}; {plan.system.name}, {plan.stack.name}",
        tags=tags,
        folder=folder,
        access=access,
    )


def checkpoint_job(
    plan: Plan,
    checkpoint: Checkpoint,
    start: Start,
    *,
    run: str,
    tags: Mapping[str, str],
    folder: Path,
    access: Access,
) -> Job:
    return Job(
        plan=plan,
        name=checkpoint.name,
        kind="checkpoint",
        key=checkpoint.key,
        components=(*_after(plan, start, len(checkpoint.layers)), CLEANUP),
        start=start,
        image_name=image_name(plan, run, checkpoint.name),
        description=f"checkpoint {checkpoint.name} of {plan.target.name}, {plan.system.name}",
        tags=tags,
        folder=folder,
        access=access,
    )


def _after(plan: Plan, start: Start, depth: int | None = None) -> tuple[str, ...]:
    """Return the components of the plan's layers that `start` lacks, up to the layer at `depth`."""
    return tuple(component for layer in plan.layers[start.depth : depth] for component in layer.components)


def image_name(plan: Plan, run: str, checkpoint: str = "") -> str:
    """Return a unique AMI name that sorts by time within a target and fits EC2's limit of 128 characters."""
    words = (plan.target.name, plan.system.name, plan.stack.name, checkpoint)
    return "-".join(filter(None, words))[: 127 - len(run)] + f"-{run}"
