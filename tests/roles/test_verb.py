"""Tests of the command `builder role`: output, and removal of the machine container in all cases."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from builder.adapters.engine.client import Engine
from builder.marks import RUN_LABEL
from tests.standins.overlay import ROOT

pytestmark = pytest.mark.engine

TIMEOUT_S = 600


@contextmanager
def started(*words: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "builder.cli.main", "role", *words],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=TIMEOUT_S)


def containers_of(run: str) -> list[str]:
    return [found["Id"] for found in Engine().containers(f"{RUN_LABEL}={run}")]


def runs() -> set[str]:
    return {path.name for path in (ROOT / "out" / "runs").glob("*-role-limits-*")}


def test_applies_a_role_twice_checks_it_and_removes_the_machine() -> None:
    before = runs()
    with started("limits", "--twice") as process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert stdout == "base limits\n"
    assert "limits: second run" in stderr
    assert "changed=0" in stderr
    (run,) = runs() - before
    assert containers_of(run) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_role_command_removes_its_machine(number: signal.Signals) -> None:
    before = runs()
    with started("limits") as process:
        assert process.stderr
        for line in process.stderr:
            if "first run: base : " in line:
                break
        (run,) = runs() - before
        assert containers_of(run) != []
        process.send_signal(number)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert containers_of(run) == []


def test_error_names_the_failed_role_and_task() -> None:
    with started("limits", "--set", "limits_session=7") as process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stdout) == (4, "")
    assert "error: first run: role 'limits': Validating arguments" in stderr
