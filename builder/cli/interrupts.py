"""Signals that end a program, as an exception that unwinds what is under way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from builder.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals that end a program become an exception in the main thread, once."""

    def stop(number: int, _: FrameType | None) -> None:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(f"interrupted by {signal.Signals(number).name}; nothing of this run is left")

    before = {one: signal.signal(one, stop) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, action in before.items():
            signal.signal(one, action)
