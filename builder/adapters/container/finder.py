"""Find the layers that the engine has, with one request for all plans and without third-party imports."""

from collections.abc import Mapping
from functools import cached_property

from builder.adapters.engine.client import Engine, Image
from builder.model import Artifact, Layer, LayerResult, Plan


class EngineFinder:
    """Finder of container images, which lists the layers of the engine once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def images(self) -> Mapping[str, Image]:
        return self._engine.layers()

    def find(self, plan: Plan) -> Artifact | None:
        if plan.key not in self.images:
            return None
        return Artifact(
            kind="container",
            target=plan.target.name,
            reference=self.images[plan.key].id,
            key=plan.key,
            layers=tuple(reused(layer, self.images, "in this engine") for layer in plan.layers),
        )


def reused(layer: Layer, images: Mapping[str, Image], reason: str) -> LayerResult:
    """Return the result for an existing layer; its size is the difference from its parent's size."""
    image, parent = images.get(layer.key), images.get(layer.parent)
    known = image is not None and (parent is not None or not layer.parent)
    return LayerResult(
        name=layer.name,
        key=layer.key,
        outcome="reused",
        reason=reason,
        image=image.id if image else "",
        size_bytes=image.size_bytes - (parent.size_bytes if parent else 0) if image and known else 0,
        components=layer.components,
    )
