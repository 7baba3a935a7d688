"""List and tag images over an engine's Unix socket with only the standard library."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from builder.adapters.engine import wire
from builder.errors import BuildError, MissingError

HINT = "start the engine (systemctl start docker), or run: builder doctor"


def list_images(path: Path, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the engine's records of images, including intermediate images."""
    target = f"/images/json?{urlencode({'all': '1', 'filters': json.dumps(filters)})}"
    found: list[dict[str, Any]] = json.loads(_ask(wire.get, path, target, "list images"))
    return found


def tag_image(path: Path, image: str, repository: str, tag: str) -> None:
    """Set a tag on an image."""
    target = f"/images/{quote(image)}/tag?{urlencode({'repo': repository, 'tag': tag})}"
    _ask(wire.post, path, target, f"tag {image}")


def _ask(send: Callable[[str, str], tuple[int, bytes]], path: Path, target: str, action: str) -> bytes:
    """Return the body of the engine's response; raise if there is none or its status is an error."""
    try:
        status, text = send(str(path), target)
    except OSError as error:
        raise MissingError(f"no answer from the engine at unix://{path}: {error}", hint=HINT) from error
    if status >= 300:
        answer = text.decode(errors="replace").strip()
        raise BuildError(f"the engine refused to {action}: {answer}", hint=HINT)
    return text
