"""Every event as one JSON object a line, for programs that follow a run."""

import json
from typing import TextIO

from builder.events import Event


def line(event: Event) -> str:
    """One event as JSON, without the newline; ASCII, so that any stream can carry any tool's output."""
    content = {
        "name": event.name,
        "time_s": round(event.time_s, 6),
        "step": event.step,
        "text": event.text,
        "fields": dict(event.fields),
    }
    return json.dumps(content, separators=(",", ":"))


class JsonLines:
    """Writes each event to a text stream as it comes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        self._stream.write(line(event) + "\n")
        self._stream.flush()
