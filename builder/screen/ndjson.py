"""Every event as one JSON object a line, for programs that follow a run."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
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
    """Writes each event to a text stream as it comes; calls `on_lost` once when nothing can be written."""

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
            # What is still in the buffer would fail again at the end of the program.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._on_lost()
