"""The checkpoints of a plan: layers of an AMI after which a build keeps an intermediate image, with its key.

Pure: which of these images exist is known only to the account.
"""

from collections.abc import Collection
from dataclasses import dataclass

from builder.model import Layer, Plan
from builder.sources import digest_of

# The component that removes the identity of a machine; without it an image cannot boot as another machine.
CLEANUP = "cleanup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An intermediate image: all layers up to one of them, cleaned like a complete image."""

    key: str
    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        """The name of the last layer."""
        return self.layers[-1].name

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(component for layer in self.layers for component in layer.components)


def checkpoints(plan: Plan) -> tuple[Checkpoint, ...]:
    """Return the checkpoints of a plan, deepest last.

    The key covers the layers and the cleanup, which is applied to the intermediate image as well.
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
    """Return the checkpoints that contain none of the layers with the keys `rebuilt`."""
    return tuple(each for each in found if not any(layer.key in rebuilt for layer in each.layers))
