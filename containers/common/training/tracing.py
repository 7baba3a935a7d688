"""Trace of a few steps, for profilers that are started and stopped by a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

TRACED_STEPS = 3


@contextmanager
def traced(step: int, *, start: Callable[[], None], stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step; the trace begins with the given step, at least the second."""
    before, done = max(1, step - 1), 0

    def count_step() -> None:
        nonlocal done
        done += 1
        if done == before:
            start()
        elif done == before + TRACED_STEPS:
            stop()

    try:
        yield count_step
    finally:
        if before <= done < before + TRACED_STEPS:
            stop()
