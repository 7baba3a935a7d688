"""Interrupt and kill AMI builds at many moments; no temporary resource may remain in the account."""

import itertools
import re
import signal

import pytest

from builder.rehearsal.calls import Disturbance
from tests.support.ami_factory import AmiFactory, ami_of
from tests.support.factory import BOUND_S
from tests.support.rehearsal import EAST

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

# A signal is sent when the build reports one of these (event, step) pairs, listed in build order.
MOMENTS = [
    ("step.start", "machine/image"),
    ("step.task", "machine/image"),
    ("step.start", "machine/checks"),
    ("step.log", "machine/checks"),
]


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, MOMENTS[1]),
        pytest.param(signal.SIGINT, MOMENTS[2], marks=pytest.mark.boundaries),
    ],
)
def test_an_interrupted_build_cleans_up_before_it_exits(
    ami_factory: AmiFactory, number: signal.Signals, moment: tuple[str, str]
) -> None:
    assert ami_factory.signalled(number, moment) == 130
    if moment[1].endswith("image"):
        assert ami_factory.left() == []
        return
    # The complete AMI stays for the next build; every other resource is removed.
    images = [name for name in ami_factory.account()[EAST] if name.startswith("ami-")]
    assert not [name for name in ami_factory.account()[EAST] if re.match(r"i-|machine-|sg-|vol-", name)]
    assert ami_of(ami_factory.build()) in images


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(MOMENTS[0], id="image starts", marks=pytest.mark.boundaries),
        pytest.param(MOMENTS[1], id="task of the image", marks=pytest.mark.boundaries),
        pytest.param(MOMENTS[2], id="checks start", marks=pytest.mark.boundaries),
        pytest.param(MOMENTS[3], id="during checks"),
    ],
)
def test_clean_removes_the_resources_of_a_killed_build(
    ami_factory: AmiFactory, moment: tuple[str, str]
) -> None:
    assert ami_factory.signalled(signal.SIGKILL, moment) == -signal.SIGKILL
    ami_factory.clean_up()
    assert ami_factory.left() == []


@pytest.mark.boundaries
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("task", range(10))
def test_a_signal_during_any_ansible_task_leaves_no_resources(
    ami_factory: AmiFactory, number: signal.Signals, task: int
) -> None:
    code = ami_factory.signalled(number, ("step.task", "machine/image"), skip=2 * task)
    assert code == (-number if number == signal.SIGKILL else 130)
    if number == signal.SIGKILL:
        ami_factory.clean_up()
    assert ami_factory.left() == []


@pytest.mark.boundaries
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_mutating_call_leaves_no_resources(ami_factory: AmiFactory, when: str) -> None:
    """Kill a build at its first mutating API call, the next at its second, until a build succeeds."""
    for call in itertools.count(1):
        with ami_factory.started_alone() as process:
            ami_factory.rehearsal.disturb(Disturbance(mutating=True, first=call, kill=when, pid=process.pid))
            process.wait(BOUND_S)
        ami_factory.rehearsal.clear_disturbances()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        ami_factory.clean_up()
        assert ami_factory.left() == [], f"killed {when} call {call}"
    print(f"killed {when} each of {call - 1} changing calls")
    assert call > 15


@pytest.mark.boundaries  # test_ami_verbs and test_ami_janitor prove it without builds
def test_cleanup_of_a_dead_run_spares_a_running_build(ami_factory: AmiFactory) -> None:
    assert ami_factory.signalled(signal.SIGKILL, MOMENTS[1]) == -signal.SIGKILL
    with ami_factory.started_alone() as process:
        assert process.wait(BOUND_S) == 0
    images = [name for name in ami_factory.account()[EAST] if name.startswith("ami-")]
    assert len(images) == len([name for name in ami_factory.before[EAST] if name.startswith("ami-")]) + 1
    assert list((ami_factory.factory.home / "journal").iterdir()) == []
