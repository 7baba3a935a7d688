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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
    """Hands every event to every subscriber, one at a time, in the order of emission."""

    def __init__(self, *subscribers: Callable[[Event], None]) -> None:
        self._subscribers = list(subscribers)
        self._lock = threading.RLock()

    def subscribe(self, subscriber: Callable[[Event], None]) -> None:
        with self._lock:
            self._subscribers.append(subscriber)

    def emit(self, name: str, *, step: str = "", text: str = "", **fields: Scalar) -> None:
        event = Event(name=name, time_s=time.time(), step=step, text=text, fields=fields)
        with self._lock:
            for subscriber in self._subscribers:
                subscriber(event)
