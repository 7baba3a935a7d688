"""Attacks of a hostile image on the machine that checks it: output, memory, processes, credentials."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.adapters.checks import testinfra
from builder.adapters.checks.testinfra import run_checks
from builder.adapters.container.checker import ImageChecker
from builder.adapters.container.failed import FailedContainers
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.events import Stream

CHECKS = """
import os
import subprocess

def test_has_no_credentials():
    assert [name for name in os.environ if "AWS" in name or "SECRET" in name] == []
    assert os.environ["HOME"]

def test_output_of_the_image_is_bounded():
    bytearray(5 << 30)

def test_files_are_bounded(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(300 << 20)
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as opened:
        yield opened


def test_the_process_of_the_checks_has_no_credentials_and_limited_resources(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testinfra, "evaluate_variables", lambda *_: {})
    folder = tmp_path / "checks"
    folder.mkdir()
    (folder / "test_hostile.py").write_text(CHECKS)
    plan: Any = SimpleNamespace(
        target=SimpleNamespace(name="t"),
        stack=SimpleNamespace(facts={}),
        versions={},
        capabilities={},
        components=(),
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "x", "MY_SECRET": "y"}
    checks = run_checks(run, tmp_path, Stream(), plan, [folder], "local://", environment=environment)
    outcomes = {check.name.partition("::")[2]: (check.outcome, check.message) for check in checks}
    assert outcomes["test_has_no_credentials"][0] == "passed", outcomes
    assert "MemoryError" in outcomes["test_output_of_the_image_is_bounded"][1]
    assert "File too large" in outcomes["test_files_are_bounded"][1]


PROBE = """
cat /proc/self/status
mkdir /sys/fs/cgroup/probe /sys/fs/cgroup/*/probe 2>/dev/null && echo WRITABLE
cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null
true
"""


@pytest.mark.engine
def test_a_checked_image_runs_without_privileges_and_within_limits(
    run: Run, tmp_path: Path, shell_image: str
) -> None:
    engine = Engine()
    failed = FailedContainers(engine, run, keep=False)
    checker = ImageChecker(
        engine=engine, run=run, root=tmp_path, events=Stream(), environment=dict, failed=failed
    )
    lines: list[str] = []
    with checker.container(shell_image) as container:
        engine.execute(container, ["sh", "-c", PROBE], lines.append)
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    forbidden = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_MODULE": 16, "SYS_ADMIN": 21, "MKNOD": 27}
    held = int(status["CapBnd"], 16)
    assert [name for name, bit in forbidden.items() if held >> bit & 1] == []
    assert status["NoNewPrivs"] == "1"
    assert "WRITABLE" not in lines
    pids, memory = (int(line) for line in lines if line.isdigit())
    assert pids <= 4096
    assert memory < int(engine.info()["MemTotal"])
