"""Event stream of a run (steps, tasks, log lines and notes), from which screens and log files are made.

Does not know how subscribers display events.

Event names:

=============  ==========================================================================
run.start      text: the command; fields: run, targets
step.start     text: the title; fields: target, key
step.task      text: the current task of the step (an Ansible task, a test)
step.progress  fields: done, total, unit (checks or bytes)
step.log       text: one line of a tool's output
step.end       text: the reason of the outcome; fields: outcome, seconds, size_bytes, target,
               explained (the error says more than the last lines of the log)
run.estimate   fields: seconds, the duration of the run as far as earlier runs tell
note           text: a message for the user
run.end        text: "stopped" after an interrupt; fields: ok, seconds
=============  ==========================================================================

Outcomes of a step: built, pulled, reused, passed, pushed, present, skipped, failed, stopped (interrupted).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from builder.errors import FactoryError, Interrupted, without_logins
from builder.values import dataclass

_LONGEST = 16_384  # characters of an event's text
_EVERY_S = 1.0  # between two events about the progress of a transfer
_RECORDED = 100  # log lines of a step that are kept in memory
Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Event of a run; `step` is the id of its step, "" for the run itself."""

    name: str
    time_s: float
    step: str = ""
    text: str = ""
    fields: Mapping[str, Scalar] = field(default_factory=dict)


def shortened(text: str) -> str:
    """Cut a text to the maximum length that events keep in memory."""
    cut = len(text) - _LONGEST
    return f"{text[:_LONGEST]}… ({cut} characters cut)" if cut > 0 else text


OnBytes = Callable[[int, int], object]  # is called with the transferred bytes and all bytes


def ignore_bytes(done: int, total: int) -> None:
    """Do nothing: the progress callback for callers that show no progress."""


class Recorder:
    """Subscriber that keeps a run's events in memory, but only the last log lines and tasks of each step."""

    def __init__(self) -> None:
        self._count = 0
        self._events: list[tuple[int, Event]] = []
        self._last: dict[tuple[str, str], deque[tuple[int, Event]]] = {}

    def __call__(self, event: Event) -> None:
        self._count += 1
        if event.name in ("step.log", "step.task", "step.progress"):
            last = self._last.setdefault((event.name, event.step), deque(maxlen=_RECORDED))
            last.append((self._count, event))
        else:
            self._events.append((self._count, event))

    @property
    def events(self) -> list[Event]:
        """The recorded events, in the order of their emission."""
        kept = [*self._events, *(entry for last in self._last.values() for entry in last)]
        return [event for _, event in sorted(kept, key=lambda entry: entry[0])]


class Stream:
    """Passes each event to every subscriber, one at a time, in the order of emission.

    A subscriber that raises receives no further events, so that the cleanup can still be reported.
    """

    def __init__(
        self, *subscribers: Callable[[Event], None], cancelled: threading.Event | None = None
    ) -> None:
        self._cancelled = cancelled or threading.Event()
        self._subscribers = list(subscribers)
        self._failure: Exception | None = None
        self._lock = threading.RLock()

    def subscribe(self, subscriber: Callable[[Event], None]) -> None:
        with self._lock:
            self._subscribers.append(subscriber)

    @contextmanager
    def step(self, step: str, title: str, *, target: str, **fields: Scalar) -> Iterator[dict[str, Any]]:
        """Emit `step.start` and `step.end`; the caller adds fields of `step.end` to the yielded mapping.

        After the block, `seconds` in the mapping is the duration of the step. After a FactoryError the step
        ends as failed, with the error's message as text. Once the run is cancelled, the error is a
        consequence of the cleanup, and the step ends as stopped.
        """
        started = time.monotonic()
        self.emit("step.start", step=step, text=title, target=target, **fields)
        end: dict[str, Any] = {}
        try:
            yield end
        except FactoryError as error:
            is_stopped = self._cancelled.is_set()
            text, outcome = ("interrupted", "stopped") if is_stopped else (error.message, "failed")
            end = {"text": text, "outcome": outcome}
            if error.details and not is_stopped:
                end["explained"] = True
            raise
        finally:
            if end:
                end["seconds"] = time.monotonic() - started
                self.emit("step.end", step=step, target=target, **end)

    def emit(self, name: str, *, step: str = "", text: str = "", **fields: Scalar) -> None:
        shown = {
            key: without_logins(value) if isinstance(value, str) else value for key, value in fields.items()
        }
        event = Event(
            name=name, time_s=time.time(), step=step, text=shortened(without_logins(text)), fields=shown
        )
        with self._lock:
            for subscriber in tuple(self._subscribers):
                try:
                    subscriber(event)
                except Interrupted:
                    raise  # raised by a signal handler in the main thread; the subscriber itself did not fail
                except Exception as error:
                    self._subscribers.remove(subscriber)
                    self._failure = self._failure or error
                    raise

    def raise_failure(self) -> None:
        """Raise the first exception of a subscriber; called by the thread that waits for the workers."""
        if self._failure is not None:
            raise self._failure


class Meter:
    """Emits the transferred bytes of a step, at most once per second and when all are transferred."""

    def __init__(self, events: Stream, step: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._step = step
        self._clock = clock
        self._next_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        now_s = self._clock()
        if done == total or now_s >= self._next_s:
            self._next_s = now_s + _EVERY_S
            self._events.emit("step.progress", step=self._step, done=done, total=total, unit="bytes")
