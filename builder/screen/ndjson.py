"""Events as JSON, one object per line, for programs that follow a run."""

import json
from collections.abc import Callable
from typing import TextIO

from builder.events import Event
from builder.screen.streams import discard


def line(event: Event) -> str:
    """Return an event as JSON without a newline, in ASCII, which every stream can carry."""
    content = {
        "name": event.name,
        "time_s": round(event.time_s, 6),
        "step": event.step,
        "text": event.text,
        "fields": dict(event.fields),
    }
    return json.dumps(content, separators=(",", ":"))


class JsonLines:
    """Writes each event to a text stream; calls `on_lost` once, when the stream can no longer be written."""

    def __init__(self, stream: TextIO, *, on_lost: Callable[[], object]) -> None:
        self._stream = stream
        self._on_lost = on_lost
        self._is_lost = False

    def __call__(self, event: Event) -> None:
        if self._is_lost:
            return
        try:
            self._stream.write(line(event) + "\n")
            self._stream.flush()
        except OSError:
            self._is_lost = True
            discard(self._stream)
            self._on_lost()
