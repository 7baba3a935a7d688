"""Kill and interrupt builds at many moments; no incomplete layer may be reused and nothing may remain."""

import signal
import threading

import pytest

from tests.support.factory import BOUND_S, Factory

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

# (event, step) after which the build is killed, in build order.
MOMENTS = [
    ("run.start", ""),
    ("step.start", "hello/base"),
    ("step.start", "hello/system"),
    ("step.task", "hello/system"),
    ("step.end", "hello/system"),
    ("step.start", "hello/fabric"),
    ("step.task", "hello/fabric"),
    ("step.start", "hello/final"),
    ("step.start", "hello/workload"),
    ("step.log", "hello/workload"),
    ("step.end", "hello/workload"),
    ("step.start", "hello/checks"),
    ("step.log", "hello/checks"),
    ("step.end", "hello/checks"),
]


@pytest.fixture
def fresh(factory: Factory) -> Factory:
    """Factory whose base image exists and whose layers do not."""
    if factory.repository.keys()["base"] not in factory.engine.layers():
        assert factory.build().code == 0
        for layer in ("workload", "final", "fabric", "system"):
            factory.remove_layer(layer)
    return factory


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(moment).replace("/", "-"))
def test_sigkill_at_any_moment_leaves_no_remains_after_the_next_build(
    fresh: Factory, moment: tuple[str, str]
) -> None:
    assert fresh.signalled(signal.SIGKILL, moment) == -signal.SIGKILL
    build = fresh.build()
    assert build.code == 0, build.stderr
    assert build.outcomes["checks"] == "passed"
    greeting = fresh.in_image(f"factory-layers:{fresh.repository.keys()['workload']}", "cat", "/etc/greeting")
    assert greeting.startswith("test_sigkill")
    assert fresh.containers() == []
    assert fresh.untagged() == []
    assert fresh.scratch() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "moment",
    [("step.task", "hello/system"), ("step.log", "hello/workload"), ("step.log", "hello/checks")],
    ids=lambda moment: moment[1].replace("/", "-"),
)
def test_an_interrupted_build_cleans_up_before_it_exits(
    fresh: Factory, number: signal.Signals, moment: tuple[str, str]
) -> None:
    assert fresh.signalled(number, moment) == 130
    assert fresh.containers() == []
    assert fresh.untagged() == []
    assert fresh.scratch() == []
    assert fresh.build().code == 0


def test_a_closed_stdout_interrupts_the_build(fresh: Factory) -> None:
    """For example, `builder build --json | head -1` closes stdout after the first line."""
    with fresh.started() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "run.start" in process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(BOUND_S) == 130
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
    assert fresh.containers() == []
    assert fresh.untagged() == []
    assert fresh.scratch() == []


def test_concurrent_builds_build_each_layer_once(fresh: Factory) -> None:
    results = []
    threads = [threading.Thread(target=lambda: results.append(fresh.build())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_S)
    assert [build.code for build in results] == [0, 0]
    for layer in ("system", "fabric", "final", "workload"):
        assert sorted(build.outcomes[layer] for build in results) == ["built", "reused"]
