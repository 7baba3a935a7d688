"""The scenarios of molecule: every role on a machine, twice, then its checks."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import catalog
from builder.members import closure
from tests.roles import matrix, plans
from tests.roles.plans import ROOT
from tests.roles.scenario import scenarios

BOUND_S = 3600
Runs = Mapping[str, Future[subprocess.CompletedProcess[str]]]


def run(name: str) -> "subprocess.CompletedProcess[str]":
    program = str(Path(sys.executable).with_name("molecule"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [program, "test", "--scenario-name", name],
        cwd=ROOT / "ansible",
        env=os.environ | {"PATH": path, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """All scenarios that were asked for, as many at once as there are processors: each waits a lot."""
    names = {item.name for item in request.session.items}
    asked = [name for name in sorted(scenarios()) if f"test_scenario[{name}]" in names]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {name: pool.submit(run, name) for name in asked}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.engine
@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(scenarios()))
def test_scenario(running: Runs, name: str) -> None:
    done = running[name].result()
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def test_every_role_is_in_a_scenario() -> None:
    loaded = catalog.load(ROOT)
    tried = {
        member for platform in scenarios().values() for member in closure(loaded, platform["components"])
    }
    targets = {member for target in matrix.made_here(loaded) for member in closure(loaded, target.components)}
    assert set(loaded.components) - tried - targets == set()


def test_the_page_of_roles_is_current() -> None:
    """`python -m tests.roles.matrix` writes it anew."""
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.render(plans.load_catalog())
