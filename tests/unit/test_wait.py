"""The function `until` (wait for a condition): polling times, timeout and cancellation."""

import itertools
import math
import threading
from collections.abc import Iterator

import pytest

from builder import wait
from builder.adapters.aws.account import Account
from builder.errors import Interrupted
from builder.wait import Backoff, until


class Clock(threading.Event):
    """Fake event whose wait advances a fake clock; it is set at `cancel_at_s`."""

    def __init__(self, cancel_at_s: float = math.inf) -> None:
        super().__init__()
        self.now_s = 100.0
        self.cancel_at_s = 100.0 + cancel_at_s

    def __call__(self) -> float:
        return self.now_s

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now_s = min(self.now_s + timeout, self.cancel_at_s)
        return self.now_s >= self.cancel_at_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    fake = Clock()
    monkeypatch.setattr(wait, "monotonic", fake)
    return fake


def calls(clock: Clock, *, timeout_s: float, every_s: float | Backoff) -> list[float]:
    """Return the times at which `until` calls a condition that is never true."""
    moments: list[float] = []

    def never() -> bool:
        moments.append(round(clock() - 100.0, 3))
        return False

    assert until(never, timeout_s=timeout_s, every_s=every_s, cancelled=clock) is False
    return moments


@pytest.mark.parametrize(
    ("timeout_s", "every_s", "moments"),
    [
        (0, 5, [0]),
        (10, 5, [0, 5, 10]),
        (12, 5, [0, 5, 10, 12]),
        (10, Backoff(1, 4, 2), [0, 1, 3, 7, 10]),
    ],
)
def test_condition_is_called_at_once_at_intervals_and_at_the_timeout(
    clock: Clock, timeout_s: float, every_s: float | Backoff, moments: list[float]
) -> None:
    assert calls(clock, timeout_s=timeout_s, every_s=every_s) == moments


def test_an_aws_account_is_polled_every_few_seconds_and_a_rehearsal_more_often(clock: Clock) -> None:
    account = Account({}, region="us-east-1")
    moments = calls(clock, timeout_s=300, every_s=account.polling)
    assert moments[:5] == [0, 2, 5, 9.5, 16.25]
    assert max(after - before for before, after in itertools.pairwise(moments)) <= 15
    assert len(moments) < 30
    rehearsal = Account({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, region="us-east-1")
    assert rehearsal.polling.longest_s < 1


def test_truthy_result_of_the_condition_is_returned_unchanged(clock: Clock) -> None:
    results = iter(["", "", "found"])
    assert until(lambda: next(results), timeout_s=10, every_s=1, cancelled=clock) == "found"
    assert clock() == 102.0


def test_cancelling_ends_a_pause_between_two_polls(clock: Clock) -> None:
    clock.cancel_at_s = 107.0
    with pytest.raises(Interrupted):
        calls(clock, timeout_s=60, every_s=5)
    assert clock() == 107.0


def test_a_wait_that_was_cancelled_before_does_not_pause() -> None:
    cancelled = threading.Event()
    cancelled.set()
    calls_made: list[None] = []
    with pytest.raises(Interrupted):
        until(lambda: bool(calls_made.append(None)), timeout_s=60, every_s=60, cancelled=cancelled)
    assert len(calls_made) == 1
    assert until(lambda: True, timeout_s=60, every_s=60, cancelled=cancelled)


def test_exception_of_the_condition_propagates(clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError):
        until(lambda: bool(1 // 0), timeout_s=60, every_s=5, cancelled=clock)


def test_wait_without_timeout_ends_when_the_condition_is_true(clock: Clock) -> None:
    results = iter([False] * 1000 + [True])
    assert until(lambda: next(results), timeout_s=math.inf, every_s=1, cancelled=clock)
