"""Runs the molecule scenarios: every role twice on a fresh machine, then its checks."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from builder import catalog
from builder.app import role_docs
from builder.app.scenario import scenarios
from builder.members import closure
from tests.facts import upstreams
from tests.standins.__main__ import scenario_request, served
from tests.standins.overlay import ROOT, has_standin

TIMEOUT_S = 3600
SCENARIOS = scenarios(ROOT)
Runs = Mapping[str, Future[subprocess.CompletedProcess[str]]]


def run(name: str) -> "subprocess.CompletedProcess[str]":
    program = str(Path(sys.executable).with_name("molecule"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    request = scenario_request(name)
    standins = SCENARIOS[name].get("standins")
    with served(request) if standins else nullcontext(dict(os.environ)) as environment:
        return subprocess.run(
            [program, "test", "--scenario-name", name],
            cwd=ROOT / "ansible",
            env=environment | {"PATH": path, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Start the selected molecule scenarios in parallel, at most one for each processor."""
    names = {item.name for item in request.session.items}
    selected = [name for name in SCENARIOS if f"test_scenario_passes[{name}]" in names]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {name: pool.submit(run, name) for name in selected}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.engine
@pytest.mark.e2e
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_passes(running: Runs, name: str) -> None:
    done = running[name].result()
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


# Roles for containers on vendors' images, which CI cannot pull → how the roles are tested instead.
WITHOUT_SCENARIO = {
    "vendor_base": "tests/e2e/test_vendor_base.py builds with it on an image of a local registry",
    "nsight": "linted only: its packages are in NVIDIA's repository",
    "upstream_source": "`make upstream` checks out programs of GitHub",
}


def test_every_role_is_in_a_molecule_scenario_or_a_target() -> None:
    loaded = catalog.load(ROOT)
    tried = {member for platform in SCENARIOS.values() for member in closure(loaded, platform["components"])}
    targets = {
        member for target in role_docs.made_here(loaded) for member in closure(loaded, target.components)
    }
    assert set(loaded.components) - tried - targets == set(WITHOUT_SCENARIO)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if SCENARIOS[name].get("standins")])
def test_scenario_lists_its_stand_ins(name: str) -> None:
    members = closure(catalog.load(ROOT), SCENARIOS[name]["components"])
    assert SCENARIOS[name]["standins"] == [member for member in members if has_standin(member)]


def test_roles_page_is_current() -> None:
    """`builder role --write-docs` updates the reference page of the roles."""
    page = (ROOT / role_docs.PAGE).read_text(encoding="utf-8")
    assert page == role_docs.render(catalog.load(ROOT), SCENARIOS, role_docs.proofs(ROOT))


def test_page_says_every_run_only_for_roles_that_a_test_applies_to_real_software() -> None:
    page = (ROOT / role_docs.PAGE).read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if "| every run |" in line and line.startswith("| `")]
    assert rows
    assert [row for row in rows if "| real |" not in row or "| stand-ins |" in row] == []


def test_every_role_has_a_valid_proof_entry() -> None:
    """Each entry has facts, a test with a real release, or a reason for a stand-in or for no test."""
    entries = tomllib.loads((ROOT / role_docs.PROOFS).read_text(encoding="utf-8"))
    page = (ROOT / role_docs.PAGE).read_text(encoding="utf-8")
    assert [name for name in entries if f"| `{name}` |" not in page] == []
    assert sorted(name for name, entry in entries.items() if entry.get("facts")) == upstreams()
    proofs = {"real", "facts", "stand_in", "lint"}
    assert [name for name, entry in entries.items() if not set(entry) & proofs] == []
    assert [name for name, entry in entries.items() if ("date" in entry) != ("real" in entry)] == []
