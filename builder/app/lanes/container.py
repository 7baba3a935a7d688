"""Container images: made in the engine, pushed to a registry."""

import threading
from typing import Any

from builder.adapters.engine.client import Engine
from builder.app.context import Context
from builder.ports import Publisher

# In a site's file, in place of a host: the registry of the account, or of the rehearsal of one.
ECR = "ecr"


def open_publisher(context: Context, engine: Engine, cancelled: threading.Event | None = None) -> Publisher:
    from builder.adapters.registry.publisher import RegistryPublisher

    place, more = push_place(context), dict[str, Any]()
    name, _, path = place.partition("/")
    if name == ECR:
        from builder.app.lanes.ami import open_ecr

        host, more = open_ecr(context)
        place = f"{host}/{path}" if path else host
    return RegistryPublisher(
        engine=engine,
        place=place,
        blobs=context.blobs,
        siblings=tuple(context.catalog.targets),
        cancelled=cancelled,
        **more,
    )


def push_place(context: Context) -> str:
    """The site's registry; where it names none, the one on this machine, started if need be."""
    if context.site.registry.push:
        return context.site.registry.push
    from builder.adapters.registry.local import ensure_up

    return ensure_up(context.workspace)
