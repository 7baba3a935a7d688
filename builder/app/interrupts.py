"""Signals that end a program, as an exception that unwinds what is under way."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any

from builder.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HEAR_S = 0.2


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals that end a program become an exception in the main thread, once."""

    def stop(number: int, _: FrameType | None) -> None:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(f"interrupted by {signal.Signals(number).name}; nothing of this run is left")

    with _answered_by(stop):
        yield


@contextmanager
def _answered_by(answer: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {one: signal.signal(one, answer) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, action in before.items():
            signal.signal(one, action)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that end a program arrive when the block is over; in it, threads are started.

    An exception in the middle of a thread's start leaves a thread that its pool does not know of, and so
    neither ends nor waits for.
    """
    arrived: list[int] = []
    try:
        with _answered_by(lambda number, _: arrived.append(number)):
            yield
    finally:
        for number in arrived[:1]:
            signal.raise_signal(number)


def wait_for_all(futures: Sequence["Future[Any]"]) -> None:
    """Waits, and wakes up now and then.

    The system may give a signal to any thread, and only the main thread acts on it, as soon as it runs: one
    that sleeps until all work is done would hear of it when there is nothing left to interrupt.
    """
    while wait(futures, timeout=_HEAR_S).not_done:
        pass
