"""List images over an engine's Unix socket with only the standard library, for builds with nothing to do.

Importing the SDK would more than double the time of such a build; importing http.client would add a third.
Requests are HTTP/1.0: the engine ends a response by closing the connection, so no length needs to be parsed.
"""

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from builder.errors import BuildError, MissingError

HINT = "start the engine (systemctl start docker), or run: builder doctor"
_TIMEOUT_S = 60


def list_images(path: Path, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the engine's records of images, including intermediate images."""
    target = f"/images/json?{urlencode({'all': '1', 'filters': json.dumps(filters)})}"
    try:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answer:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: engine\r\n\r\n".encode())
            words = answer.readline().split()
            if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
                raise ConnectionError("connection closed without an answer")
            while answer.readline().strip():
                pass
            text = answer.read()
    except OSError as error:
        raise MissingError(f"no answer from the engine at unix://{path}: {error}", hint=HINT) from error
    if int(words[1]) != 200:
        raise BuildError(
            f"the engine refused to list images: {text.decode(errors='replace').strip()}", hint=HINT
        )
    found: list[dict[str, Any]] = json.loads(text)
    return found
