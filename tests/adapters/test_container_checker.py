"""Containers of checks: kept after a failure with `--keep-failed`, otherwise removed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.container import checker
from builder.adapters.container.checker import ImageChecker
from builder.adapters.container.failed import FailedContainers
from builder.adapters.container.maker import sweep
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.app.context import Context
from builder.errors import CheckError
from builder.events import Stream
from builder.marks import RUN_LABEL
from builder.model import Artifact, Check

pytestmark = pytest.mark.engine


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as opened:
        yield opened
    sweep(Engine(), opened.name)


def kept_lines(run: Run, root: Path, image: str, *, keep: bool) -> list[str]:
    """Check an image; return the lines of the report or of the error that say how to enter the container."""
    engine, plan = Engine(), Context(root).plan("cpu-ddp")
    failed = FailedContainers(engine, run, keep=keep)
    own = ImageChecker(engine=engine, run=run, root=root, events=Stream(), environment=dict, failed=failed)
    artifact = Artifact(kind="container", target="cpu-ddp", reference=image, key=plan.key)
    try:
        lines = list(own.check(plan, artifact).kept)
    except CheckError as error:
        lines = error.hint.splitlines()
    sweep(engine, run.name, kept=failed.containers)  # the end of the run
    return lines


@pytest.mark.parametrize("outcome", ["failed", "passed", "error"])
@pytest.mark.parametrize("keep", [True, False])
def test_container_of_failed_checks_is_kept(
    run: Run, root: Path, shell_image: str, monkeypatch: pytest.MonkeyPatch, outcome: str, keep: bool
) -> None:
    def run_checks(*_: object, **__: object) -> tuple[Check, ...]:
        if outcome == "error":
            raise CheckError("pytest exited with code 3")
        return (Check(name="a", component="a", outcome=outcome, seconds=0.0),)

    monkeypatch.setattr(checker, "run_checks", run_checks)
    lines = kept_lines(run, root, shell_image, keep=keep)
    engine = Engine()
    left = engine.containers(f"{RUN_LABEL}={run.name}")
    if not keep or outcome == "passed":
        assert (lines, left) == ([], [])
        return
    name = left[0]["Names"][0].removeprefix("/")
    assert lines == [f"look inside: docker exec -it {name} bash", f"remove it: docker rm --force {name}"]
    assert left[0]["State"] == "running"


def test_container_without_a_shell_is_not_kept(run: Run, root: Path) -> None:
    engine = Engine()
    with (run.scratch / "one.tar").open("wb") as file:
        file.write(b"\0" * 10240)  # an empty archive
    image = engine.import_image(run.scratch / "one.tar", changes=[f'LABEL "{RUN_LABEL}"="{run.name}"'])
    lines = kept_lines(run, root, image, keep=True)
    assert lines == [f"docker run --rm --entrypoint /bin/sh {image[:19]} -c 'exit 0'"]
    assert engine.containers(f"{RUN_LABEL}={run.name}") == []
