"""Find the layers that the engine has, with one request for all plans and without third-party imports."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from builder.adapters.engine.client import Engine, Image
from builder.marks import KEY_LABEL
from builder.model import Artifact, Layer, LayerResult, Plan


class EngineFinder:
    """Finds container images; lists the layers of the engine only once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._plans: Sequence[Plan] = ()

    def expect(self, plans: Sequence[Plan]) -> None:
        """Include the tags of these targets in the list of images."""
        self._plans = plans

    @cached_property
    def images(self) -> Mapping[str, Image]:
        return self._engine.layers(*map(tag_of, self._plans))

    def is_tagged(self, plan: Plan) -> bool:
        """True if the target's tag is on the plan's image."""
        return tag_of(plan) in self.images[plan.key].tags

    def find(self, plan: Plan) -> Artifact | None:
        if not has_layer(self.images, plan.layers[-1]):
            return None
        return Artifact(
            kind="container",
            target=plan.target.name,
            reference=self.images[plan.key].id,
            key=plan.key,
            layers=tuple(reused(layer, self.images, "in this engine") for layer in plan.layers),
        )


def tag_of(plan: Plan) -> str:
    """Return the tag that a build sets on the target's image."""
    return f"{plan.target.name}:{plan.stack.name}"


def has_layer(images: Mapping[str, Image], layer: Layer) -> bool:
    """True if an image is tagged with the layer's key and labelled with the same key."""
    image = images.get(layer.key)
    return image is not None and (is_pulled(layer) or image.labels.get(KEY_LABEL) == layer.key)


def missing_layers(images: Mapping[str, Image], plan: Plan, due: Collection[str] = ()) -> list[str]:
    """Return the names of the layers above the highest existing layer whose key is not in `due`."""
    present = [layer.key not in due and has_layer(images, layer) for layer in plan.layers]
    top = max((number for number, exists in enumerate(present) if exists), default=-1)
    return [layer.name for layer in plan.layers[top + 1 :]]


def is_pulled(layer: Layer) -> bool:
    """True for a vendor's base image, which is pulled by its digest and has no label of the builder."""
    return layer.kind == "base" and any(name.startswith("image ") for name in layer.inputs)


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
