"""One stream of events: everything that happens in a run is said here once, and every screen reads it.

The stream knows its subscribers; it never knows what a screen looks like.

Names in use:

=============  ==========================================================================
run.start      text: the command; fields: run, targets
step.start     text: title; fields: target, key
step.task      text: what the step is doing now (an Ansible task, a test)
step.log       text: one line of a tool's output
step.end       text: the reason; fields: outcome, seconds, size_bytes, target
note           text: something that a person should know
run.end        fields: ok, seconds
=============  ==========================================================================

Outcomes of a step: built, pulled, reused, passed, pushed, present, skipped, failed.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from builder.errors import FactoryError, Interrupted

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened; `step` is the row it belongs to ("" for the run itself)."""

    name: str
    time_s: float
    step: str = ""
    text: str = ""
    fields: Mapping[str, Scalar] = field(default_factory=dict)


class Stream:
    """Passes each event to every subscriber, one at a time, in the order of emission.

    A subscriber that raises receives no further events, so that the cleanup can still be reported.
    """

    def __init__(self, *subscribers: Callable[[Event], None]) -> None:
        self._subscribers = list(subscribers)
        self._failure: Exception | None = None
        self._lock = threading.RLock()

    def subscribe(self, subscriber: Callable[[Event], None]) -> None:
        with self._lock:
            self._subscribers.append(subscriber)

    @contextmanager
    def step(self, step: str, title: str, *, target: str, **fields: Scalar) -> Iterator[dict[str, Any]]:
        """One step from start to end; what it puts into the mapping is said at its end.

        An error says so itself: the step ends as failed, with the error's message.
        """
        started = time.monotonic()
        self.emit("step.start", step=step, text=title, target=target, **fields)
        end: dict[str, Any] = {}
        try:
            yield end
        except FactoryError as error:
            end = {"text": error.message, "outcome": "failed", "seconds": time.monotonic() - started}
            raise
        finally:
            if end:
                self.emit("step.end", step=step, target=target, **end)

    def emit(self, name: str, *, step: str = "", text: str = "", **fields: Scalar) -> None:
        event = Event(name=name, time_s=time.time(), step=step, text=text, fields=fields)
        with self._lock:
            for subscriber in tuple(self._subscribers):
                try:
                    subscriber(event)
                except Interrupted:
                    raise  # a signal interrupted the main thread here; the subscriber did not fail
                except Exception as error:
                    self._subscribers.remove(subscriber)
                    self._failure = self._failure or error
                    raise

    def raise_failure(self) -> None:
        """Raise the first error of a subscriber; for the thread that waits for the workers."""
        if self._failure is not None:
            raise self._failure
