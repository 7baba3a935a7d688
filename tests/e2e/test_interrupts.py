"""Kill and interrupt container builds; no incomplete layer is reused, no temporary resource remains."""

import signal
import threading

import pytest
from _pytest.mark import ParameterSet

from tests.support.factory import BOUND_S, Factory

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

# (Event, step) pairs at which builds are stopped: an Ansible task, the Dockerfile build, the checks.
# `make test` kills a build at KILLED and interrupts a build at INTERRUPTED; `make boundaries` does the rest.
WORKING = [("step.task", "hello/system"), ("step.log", "hello/workload"), ("step.log", "hello/checks")]
KILLED, INTERRUPTED = WORKING[0], (signal.SIGTERM, WORKING[1])
MOMENTS = [
    ("run.start", ""),
    ("step.start", "hello/base"),
    ("step.start", "hello/system"),
    ("step.task", "hello/system"),
    ("step.end", "hello/system"),
    ("step.start", "hello/final"),
    ("step.task", "hello/final"),
    ("step.end", "hello/final"),
    ("step.start", "hello/workload"),
    ("step.log", "hello/workload"),
    ("step.end", "hello/workload"),
    ("step.start", "hello/checks"),
    ("step.log", "hello/checks"),
    ("step.end", "hello/checks"),
]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def moments() -> list[ParameterSet]:
    return [
        pytest.param(
            moment,
            marks=() if moment == KILLED else (pytest.mark.boundaries,),
            id="-".join(moment).replace("/", "-"),
        )
        for moment in MOMENTS
    ]


def signals() -> list[ParameterSet]:
    """Return test parameters: each signal in SIGNALS with each (event, step) pair in WORKING."""
    return [
        pytest.param(
            sent,
            moment,
            marks=() if (sent, moment) == INTERRUPTED else (pytest.mark.boundaries,),
            id=f"{sent.name}-{moment[1].replace('/', '-')}",
        )
        for moment in WORKING
        for sent in SIGNALS
    ]


@pytest.mark.parametrize("moment", moments())
def test_the_next_build_removes_the_remains_of_a_build_killed_at_any_moment(
    factory: Factory, moment: tuple[str, str]
) -> None:
    assert factory.signalled(signal.SIGKILL, moment) == -signal.SIGKILL
    build = factory.build()
    assert build.code == 0, build.stderr
    assert build.outcomes["checks"] == "passed"
    greeting = factory.in_image(
        f"factory-layers:{factory.repository.keys()['workload']}", "cat", "/etc/greeting"
    )
    assert greeting.startswith("test_the_next_build")
    assert factory.containers() == []
    assert factory.untagged() == []
    assert factory.scratch() == []


@pytest.mark.usefixtures("one_layer")
@pytest.mark.parametrize(("number", "moment"), signals())
def test_an_interrupted_build_cleans_up_before_it_exits(
    factory: Factory, number: signal.Signals, moment: tuple[str, str]
) -> None:
    assert factory.signalled(number, moment) == 130
    (run,) = factory.run_names()
    log = (factory.out / "runs" / run / "log.txt").read_text()
    assert f"note interrupted by {number.name}\n" in log
    assert "outcome=failed" not in log
    assert " run.end stopped ok=False" in log
    assert "engine" not in log.partition(" note interrupted")[2]
    assert factory.containers() == []
    assert factory.untagged() == []
    assert factory.scratch() == []
    assert factory.build().code == 0


def test_a_closed_stdout_interrupts_the_build(factory: Factory) -> None:
    """Close stdout after the first line, like `builder build --json | head -1`."""
    with factory.started() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "run.start" in process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(BOUND_S) == 130
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
    assert factory.containers() == []
    assert factory.untagged() == []
    assert factory.scratch() == []


def test_concurrent_builds_build_each_layer_once(factory: Factory) -> None:
    results = []
    threads = [threading.Thread(target=lambda: results.append(factory.build())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_S)
    assert [build.code for build in results] == [0, 0]
    for layer in ("system", "final", "workload"):
        assert sorted(build.outcomes[layer] for build in results) == ["built", "reused"]
