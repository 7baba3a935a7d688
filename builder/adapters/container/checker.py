"""Check a container image: its checks run in a container of the image, without network."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.adapters.checks.testinfra import run_checks
from builder.adapters.container.failed import FailedContainers
from builder.adapters.engine.client import Engine
from builder.adapters.engine.limits import limits
from builder.adapters.host.workspace import Run
from builder.errors import BuildError, CheckError
from builder.events import Stream
from builder.marks import RUN_LABEL
from builder.model import Artifact, Check, Plan, Report
from builder.sources import check_folders, require_same_checks

# Environment variables of every container that is checked.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


class ImageChecker:
    """Checks container images in the engine."""

    def __init__(
        self,
        *,
        engine: Engine,
        run: Run,
        root: Path,
        events: Stream,
        environment: Callable[[], dict[str, str]],
        failed: FailedContainers,
        only: str = "",
    ) -> None:
        self._engine = engine
        self._run = run
        self._root = root
        self._events = events
        self._environment = environment
        self._failed = failed
        self._only = only

    def check(self, plan: Plan, artifact: Artifact) -> Report:
        folders = check_folders(self._root, plan.components, plan.target.workload)
        started = time.monotonic()
        with self.container(artifact.reference) as container, self._failed.kept(container):
            checks = self._pytest(plan, folders, f"docker://{container}")
            report = Report(reference=artifact.reference, checks=checks, seconds=time.monotonic() - started)
            if not report.passed:
                report = dataclasses.replace(report, kept=tuple(self._failed.keep_container(container)))
        require_same_checks(self._root, plan)
        return report

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Start a container for checks and yield its id; remove it afterwards unless it is kept."""
        container = self._engine.create(
            image,
            command=["sleep", "infinity"],
            network="none",
            name=self._failed.new_name(),
            labels={RUN_LABEL: self._run.name},
            hostname="localhost",
            environment=_ENVIRONMENT,
            shm_size="1g",
            init=True,
            **limits(self._engine),
        )
        try:
            self._engine.start(container)
            self._require_shell(container, image)
            yield container
        finally:
            if container not in self._failed.containers:
                self._engine.remove_container(container)

    def _require_shell(self, container: str, image: str) -> None:
        """Raise CheckError if the container cannot run a shell, with which all checks run their commands."""
        try:
            code = self._engine.execute(container, ["/bin/sh", "-c", "exit 0"], lambda _: None, timeout_s=60)
        except BuildError:  # the container has ended, because the image has no `sleep`
            code = 127
        if code:
            raise CheckError(
                f"no shell in this image: /bin/sh and sleep do not run in {image[:19]}",
                hint=f"docker run --rm --entrypoint /bin/sh {image[:19]} -c 'exit 0'",
            )

    def _pytest(self, plan: Plan, folders: list[Path], host: str) -> tuple[Check, ...]:
        environment = self._environment() | {"DOCKER_HOST": self._engine.url}
        own, options = _selected(folders, self._only)
        return run_checks(
            self._run, self._root, self._events, plan, own, host, environment=environment, options=options
        )


def _selected(folders: list[Path], only: str) -> tuple[list[Path], tuple[str, ...]]:
    """Return the check folders of component `only`, or all check folders and the option -k for pytest."""
    own = [folder for folder in folders if folder.parent.name in (only, only.replace("_", "-"))]
    if not only or own:
        return own or folders, ()
    return folders, ("-k", only)
