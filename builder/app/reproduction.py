"""Build containers twice without reusing layers and compare the images."""

import dataclasses
import sys
from collections.abc import Sequence

from builder.adapters.container.differences import differences
from builder.adapters.engine.client import Engine
from builder.app.context import Context
from builder.app.lanes.lane import Request
from builder.app.session import build
from builder.model import Plan, Receipt


def reproduce(
    context: Context, plans: Sequence[Plan], request: Request, finished: list[Receipt]
) -> dict[str, list[str]]:
    """Build all layers of each plan in two runs; return the differences between the images, by target.

    `finished` gets the receipts of the second builds.
    """
    found = {}
    for plan in plans:
        again = dataclasses.replace(
            request, reproduce=True, rebuild=tuple(layer.name for layer in plan.layers)
        )
        (first,) = build(context, [plan], again)
        (second,) = build(context, [plan], again)
        finished.append(second)
        images = (first.artifact.reference, second.artifact.reference)
        if lines := differences(Engine(), plan, *images):
            found[plan.target.name] = lines
            print(
                f"{plan.target.name}: two builds gave different images: {' '.join(images)}", file=sys.stderr
            )
        else:
            print(f"{plan.target.name}: two builds gave the same image", file=sys.stderr)
    return found
