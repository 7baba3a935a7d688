"""List images over an engine's Unix socket with only the standard library."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from builder.adapters.engine import wire
from builder.errors import BuildError, MissingError

HINT = "start the engine (systemctl start docker), or run: builder doctor"


def list_images(path: Path, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the engine's records of images, including intermediate images."""
    target = f"/images/json?{urlencode({'all': '1', 'filters': json.dumps(filters)})}"
    try:
        status, text = wire.get(str(path), target)
    except OSError as error:
        raise MissingError(f"no answer from the engine at unix://{path}: {error}", hint=HINT) from error
    if status != 200:
        raise BuildError(
            f"the engine refused to list images: {text.decode(errors='replace').strip()}", hint=HINT
        )
    found: list[dict[str, Any]] = json.loads(text)
    return found
