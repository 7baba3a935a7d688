"""A signal to any thread interrupts the main thread, but never while a thread is being started."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from builder.app.interrupts import defer_signals, interruptible, wait_for_all
from builder.errors import Interrupted
from builder.wait import until

ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
BOUND_S = 20


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def main_thread_sleeps() -> bool:
    main = threading.main_thread().ident
    return main is not None and sys._current_frames()[main].f_code is threading.Condition.wait.__code__


@pytest.mark.parametrize("number", sorted(ENDS))
def test_a_signal_to_a_worker_thread_interrupts_the_main_thread_at_once(
    pool: ThreadPoolExecutor, number: signal.Signals
) -> None:
    waiting, over = threading.Event(), threading.Event()

    def work() -> bool:
        waiting.wait(BOUND_S)
        assert until(main_thread_sleeps, timeout_s=BOUND_S, every_s=0.1)
        signal.pthread_kill(threading.get_ident(), number)
        return over.wait(BOUND_S)

    future = pool.submit(work)
    with interruptible():
        waiting.set()
        with pytest.raises(Interrupted):
            wait_for_all([future])
        assert not future.done()
        over.set()
    assert future.result()


def test_signals_are_deferred_until_threads_have_started(pool: ThreadPoolExecutor) -> None:
    futures = []
    with interruptible(), pytest.raises(Interrupted, match="SIGTERM"):  # noqa: PT012 (raised at the end of the inner block)
        with defer_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            futures += [pool.submit(os.getpid) for _ in range(2)]
        raise AssertionError("the signal was lost")
    assert [future.result() for future in futures] == [os.getpid()] * 2
