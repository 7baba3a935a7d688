"""A build of an AMI that is interrupted or killed at any moment: the account is as it was before."""

import itertools
import re
import signal

import pytest

from builder.rehearsal.calls import Disturbance
from tests.support.ami_factory import AmiFactory, ami_of
from tests.support.factory import BOUND_S
from tests.support.rehearsal import EAST

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

# (event, step) after which the signal comes, over the whole life of a build.
MOMENTS = [
    ("step.start", "machine/image"),
    ("step.task", "machine/image"),
    ("step.start", "machine/checks"),
    ("step.log", "machine/checks"),
]


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        *((number, MOMENTS[1]) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
        (signal.SIGINT, MOMENTS[2]),
    ],
)
def test_a_signal_leaves_nothing_at_once(
    ami_factory: AmiFactory, number: signal.Signals, moment: tuple[str, str]
) -> None:
    assert ami_factory.signalled(number, moment) == 130
    if moment[1].endswith("image"):
        assert ami_factory.left() == []
        return
    # The image is complete: the next build goes on with it, and so nothing else may be left.
    images = [one for one in ami_factory.account()[EAST] if one.startswith("ami-")]
    assert not [one for one in ami_factory.account()[EAST] if re.match(r"i-|machine-|sg-|vol-", one)]
    assert ami_of(ami_factory.build()) in images


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(moment).replace("/", "-"))
def test_a_killed_build_is_cleared(ami_factory: AmiFactory, moment: tuple[str, str]) -> None:
    assert ami_factory.signalled(signal.SIGKILL, moment) == -signal.SIGKILL
    ami_factory.settle()
    assert ami_factory.left() == []


@pytest.mark.boundaries
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("task", range(10))
def test_a_signal_at_any_task(ami_factory: AmiFactory, number: signal.Signals, task: int) -> None:
    code = ami_factory.signalled(number, ("step.task", "machine/image"), skip=2 * task)
    assert code == (-number if number == signal.SIGKILL else 130)
    if number == signal.SIGKILL:
        ami_factory.settle()
    assert ami_factory.left() == []


@pytest.mark.boundaries
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_call(ami_factory: AmiFactory, when: str) -> None:
    """The process dies at a call that changes something: the first, the second, until there are no more."""
    for call in itertools.count(1):
        with ami_factory.started_alone() as process:
            ami_factory.rehearsal.disturb(Disturbance(mutating=True, first=call, kill=when, pid=process.pid))
            process.wait(BOUND_S)
        ami_factory.rehearsal.calm()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        ami_factory.settle()
        assert ami_factory.left() == [], f"killed {when} call {call}"
    print(f"killed {when} each of {call - 1} calls")
    assert call > 15


def test_another_run_is_left_alone(ami_factory: AmiFactory) -> None:
    """A build is under way while another one, which is dead, is cleared up."""
    assert ami_factory.signalled(signal.SIGKILL, MOMENTS[1]) == -signal.SIGKILL
    with ami_factory.started_alone() as process:
        assert process.wait(BOUND_S) == 0
    made = [one for one in ami_factory.account()[EAST] if one.startswith("ami-")]
    assert len(made) == len([one for one in ami_factory.before[EAST] if one.startswith("ami-")]) + 1
    assert list((ami_factory.factory.home / "journal").iterdir()) == []
