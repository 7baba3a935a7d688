"""Poll a condition until it holds or a timeout expires; the only polling loop of the product.

Does not know the conditions or the services behind them.
"""

import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from builder.errors import Interrupted
from builder.values import dataclass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between calls: first `first_s`, then multiplied by `factor` each time, up to `longest_s`."""

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
    """Call `condition` until its result is true or the timeout expires; return the last result.

    The first call is immediate and the last at the timeout. Raises Interrupted as soon as `cancelled` is set,
    unless the condition is already true.
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
