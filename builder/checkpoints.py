"""The checkpoints of a plan: intermediate AMIs that a build keeps after some layers, each with a key.

Pure: does not query the AWS account for existing checkpoints.
"""

from collections.abc import Collection
from dataclasses import dataclass

from builder.model import Layer, Plan
from builder.sources import digest_of

# Component that removes machine-id and SSH host keys; an image without it cannot boot as a new machine.
CLEANUP = "cleanup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An intermediate AMI with the first layers of a plan, cleaned up like a complete AMI."""

    key: str
    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        """The name of the checkpoint's last layer."""
        return self.layers[-1].name

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(component for layer in self.layers for component in layer.components)


def checkpoints(plan: Plan) -> tuple[Checkpoint, ...]:
    """Return the checkpoints of a plan; the checkpoint with the most layers is the last.

    The key of a checkpoint covers its layers and the cleanup, which also runs on checkpoints.
    """
    if CLEANUP not in plan.components:
        return ()
    inputs = {name: digest for layer in plan.layers for name, digest in layer.inputs.items()}
    cleanup = [inputs[f"role {CLEANUP}"], inputs[f"variables of {CLEANUP}"]]
    return tuple(
        Checkpoint(key=digest_of([layer.key, cleanup]), layers=plan.layers[: index + 1])
        for index, layer in enumerate(plan.layers[:-1])
        if layer.checkpoint
    )


def without_rebuilt(found: Collection[Checkpoint], rebuilt: Collection[str]) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that contain no layer whose key is in `rebuilt`."""
    return tuple(each for each in found if not any(layer.key in rebuilt for layer in each.layers))
