"""Wait for a condition within a time limit: the only loop of this kind in the product.

It knows neither what is waited for nor which program or service is asked.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from builder.errors import Interrupted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between calls: `first_s`, then each longer than the last by `factor`, up to `longest_s`."""

    first_s: float
    longest_s: float
    factor: float = 1.5


def until(
    condition: Callable[[], T],
    *,
    timeout_s: float,
    every_s: float | Backoff,
    cancelled: threading.Event | None = None,
) -> T:
    """Calls `condition` until its result is true and returns that; at the time limit, the last result.

    The first call is immediate and the last one at the time limit. Raises Interrupted as soon as `cancelled`
    is set, unless the condition is already true.
    """
    pauses = every_s if isinstance(every_s, Backoff) else Backoff(every_s, every_s)
    stop = cancelled or threading.Event()
    deadline, pause_s = monotonic() + timeout_s, pauses.first_s
    while not (result := condition()):
        left_s = deadline - monotonic()
        if left_s <= 0:
            break
        if stop.wait(min(pause_s, left_s)):
            raise Interrupted("interrupted")
        pause_s = min(pause_s * pauses.factor, pauses.longest_s)
    return result
