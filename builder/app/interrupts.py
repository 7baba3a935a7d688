"""Signals that end the program, turned into an exception so that cleanup code runs."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any

from builder.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.2


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into Interrupted in the main thread; ignore later ones."""

    def stop(number: int, _: FrameType | None) -> None:
        for number_ignored in _SIGNALS:
            signal.signal(number_ignored, signal.SIG_IGN)
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP until the end of the block; for blocks that start threads.

    An exception from a signal while a pool starts a thread would leave a thread that the pool never joins.
    """
    arrived: list[int] = []
    try:
        with _handled_by(lambda number, _: arrived.append(number)):
            yield
    finally:
        for number in arrived[:1]:
            signal.raise_signal(number)


def wait_for_all(futures: Sequence["Future[Any]"], *, check: Callable[[], None] = lambda: None) -> None:
    """Wait until all futures are done; call `check`, which may raise, several times a second.

    Python runs signal handlers in the main thread only, when it executes bytecode: a wait without a timeout
    would delay them until the futures are done.
    """
    while wait(futures, timeout=_POLL_S).not_done:
        check()
