"""The scenarios of molecule: every role on a machine, twice, then its checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder import catalog
from tests.roles import matrix, plans
from tests.roles.plans import ROOT
from tests.roles.scenario import scenarios

BOUND_S = 3600


@pytest.mark.engine
@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(scenarios()))
def test_scenario(name: str) -> None:
    program = str(Path(sys.executable).with_name("molecule"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [program, "test", "--scenario-name", name],
        cwd=ROOT / "ansible",
        env=os.environ | {"PATH": path, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def test_every_role_is_in_a_scenario() -> None:
    loaded = catalog.load(ROOT)
    tried = {
        member
        for platform in scenarios().values()
        for member in catalog.closure(loaded, platform["components"])
    }
    targets = {
        member for target in matrix.made_here(loaded) for member in catalog.closure(loaded, target.components)
    }
    assert set(loaded.components) - tried - targets == set()


def test_the_page_of_roles_is_current() -> None:
    """`python -m tests.roles.matrix` writes it anew."""
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.render(plans.load_catalog())
