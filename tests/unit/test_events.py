"""The event stream reports an error of a subscriber and still sends later events to other subscribers."""

import threading

import pytest

from builder.errors import BuildError, Interrupted
from builder.events import Event, Stream
from builder.screen.steps import Board


def failing(error: Exception) -> tuple[list[str], "Stream"]:
    """Return a list of the event names that a subscriber receives, and a stream whose subscriber raises."""
    received: list[str] = []

    def subscriber(event: Event) -> None:
        received.append(event.name)
        raise error

    return received, Stream(subscriber)


def test_emit_raises_an_error_of_a_subscriber_once_and_records_it() -> None:
    received, events = failing(ZeroDivisionError("the subscriber failed"))
    events.raise_failure()
    with pytest.raises(ZeroDivisionError):
        events.emit("run.start")
    events.emit("run.end")
    assert received == ["run.start"]
    with pytest.raises(ZeroDivisionError, match="the subscriber failed"):
        events.raise_failure()


def test_other_subscribers_receive_later_events() -> None:
    others_received: list[str] = []
    _, events = failing(ZeroDivisionError())
    events.subscribe(lambda event: others_received.append(event.name))
    with pytest.raises(ZeroDivisionError):
        events.emit("run.start")
    events.emit("run.end")
    assert others_received == ["run.end"]


def test_an_interrupt_inside_a_subscriber_does_not_remove_it() -> None:
    received, events = failing(Interrupted("interrupted by SIGTERM"))
    for name in ("run.start", "run.end"):
        with pytest.raises(Interrupted):
            events.emit(name)
    assert received == ["run.start", "run.end"]
    events.raise_failure()


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_step_that_fails_because_of_the_cleanup_counts_as_interrupted(is_cancelled: bool) -> None:
    """The cleanup removes the container of a running step, so the step fails with an engine error."""
    received: list[Event] = []
    cancelled = threading.Event()
    events = Stream(received.append, cancelled=cancelled)

    def run_step() -> None:
        with events.step("hello/system", "system", target="hello"):
            if is_cancelled:
                cancelled.set()
            raise BuildError("no answer from the engine")

    with pytest.raises(BuildError):
        run_step()
    end = received[-1]
    expected = ("interrupted", "stopped") if is_cancelled else ("no answer from the engine", "failed")
    assert (end.text, end.fields["outcome"]) == expected


@pytest.mark.parametrize("details", ["", "sh: 1: mkae: not found"])
def test_the_log_of_a_step_is_shown_only_if_its_error_has_no_details(details: str) -> None:
    board = Board()
    events = Stream(board.read)

    def run_step() -> None:
        with events.step("hello/workload", "workload", target="hello"):
            events.emit("step.log", step="hello/workload", text="sh: 1: mkae: not found")
            raise BuildError("RUN mkae: failed", details=details)

    with pytest.raises(BuildError):
        run_step()
    assert bool(board.tail("hello/workload")) == (not details)
