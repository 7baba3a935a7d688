"""Application of roles to a running container: settings, command and results of the play."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ansible import playbook
from builder.adapters.ansible.apply import Applied, Applier
from builder.adapters.engine.client import Engine
from builder.adapters.upstream.mirror import Mirror
from builder.events import Stream
from tests.support.repository import Repository

RESULT = {"event": "result", "role": "fabric", "seconds": 0.5}
LINES = [
    {**RESULT, "task": "Write files", "changed": True},
    {**RESULT, "task": "Write links"},
    {**RESULT, "role": "", "task": "Make the file system", "changed": True},
]


@dataclass
class FakeContainer:
    """Fake of the Docker SDK's client with one container, whose programs print `lines`."""

    lines: Sequence[dict[str, Any]] = ()
    code: int = 0
    id: str = "c0ffee"
    ran: list[list[str]] = field(default_factory=list)

    def exec_create(
        self, container: str, command: list[str], *, user: str, workdir: str | None
    ) -> dict[str, str]:
        assert (container, user, workdir) == (self.id, "", None)
        self.ran.append(command)
        return {"Id": "1"}

    def exec_start(self, started: str, *, stream: bool) -> list[bytes]:
        text = "".join(json.dumps(line) + "\n" for line in self.lines).encode()
        return [text[:20], text[20:]]

    def exec_inspect(self, started: str) -> dict[str, int]:
        return {"ExitCode": self.code}


class FakeEngine(Engine):
    """Engine with one fake container."""

    def __init__(self, container: FakeContainer) -> None:
        super().__init__()
        self._container = container

    def connect(self, timeout_s: int = 0) -> Any:
        return self._container


def applier(container: FakeContainer, settings: Path) -> Applier:
    return Applier(
        engine=FakeEngine(container),
        container=container.id,
        settings=settings,
        mirror=Mirror(),
        events=Stream(),
    )


def test_roles_run_with_the_command_and_variables_of_a_build(repository: Repository, tmp_path: Path) -> None:
    plan, container = repository.plan(), FakeContainer()
    applier(container, tmp_path).apply(plan)
    assert container.ran == [list(playbook.command())]
    variables = json.loads((tmp_path / "variables.json").read_text())
    for layer in plan.layers:
        assert layer.variables.items() <= variables.items()
    assert plan.capabilities.items() <= variables.items()
    assert variables["image_components"] == list(plan.components)


def test_tasks_run_with_the_variables_of_the_plan(repository: Repository, tmp_path: Path) -> None:
    task = {"ansible.builtin.ping": {}}
    container = FakeContainer()
    applier(container, tmp_path).apply(repository.plan(), tasks=[task])
    assert container.ran == [list(playbook.command("/dev/factory/run/tasks.yml"))]
    (play,) = json.loads((tmp_path / "tasks.yml").read_text())
    assert play["tasks"] == [task]


def test_result_counts_tasks_and_changes_by_role(repository: Repository, tmp_path: Path) -> None:
    result = applier(FakeContainer(LINES), tmp_path).apply(repository.plan())
    assert result.passed
    assert result.changed == ["fabric : Write files", "Make the file system"]
    assert (result.roles["fabric"].tasks, result.roles["fabric"].seconds) == (2, 1.0)


@pytest.mark.parametrize("code", [0, 2])
def test_failed_task_or_nonzero_exit_code_fails_the_play(
    repository: Repository, tmp_path: Path, code: int
) -> None:
    failed = {"event": "failed", "role": "fabric", "task": "Write files", "message": "no space"}
    lines = [failed] if code == 0 else []
    result: Applied = applier(FakeContainer(lines, code), tmp_path).apply(repository.plan())
    assert not result.passed
    assert (result.failure.message if result.failure else "") == ("no space" if code == 0 else "")
