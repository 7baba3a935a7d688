"""Keep the container of a failed layer or of failed checks for debugging (`--keep-failed`).

Roles then run in a container that stays alive, so that `docker exec` works after the failure.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from builder.adapters.engine.client import LEFTOVERS, Engine
from builder.adapters.engine.limits import limits
from builder.adapters.host.workspace import Run, Workspace
from builder.errors import BuildError, CheckError, FactoryError, IntegrityError
from builder.marks import RUN_LABEL

_IDLE = ("sleep", "infinity")


def prefix(workspace: Workspace) -> str:
    """Return the prefix of the names of a checkout's kept containers."""
    return f"factory-failed-{workspace.checkout}-"


class FailedContainers:
    """Containers of one run; with `keep`, the container of a failed layer or check is kept."""

    def __init__(self, engine: Engine, run: Run, *, keep: bool) -> None:
        self._engine = engine
        self._run = run
        self.keep = keep
        self.containers: set[str] = set()  # kept after a failure

    def new_name(self) -> str | None:
        """Return a name by which `builder clean` finds a build container; None: the engine chooses a name.

        Labels cannot identify these containers, because a container inherits the labels of its image.
        """
        return f"{prefix(self._run.workspace)}{os.urandom(4).hex()}" if self.keep else None

    def command(self, play: Sequence[str]) -> Sequence[str]:
        """Return the command of a container in which `play` will run."""
        return _IDLE if self.keep else play

    def play(self, container: str, command: Sequence[str], on_line: Callable[[str], None]) -> int:
        """Run a command in a container created with `self.command(command)`; return its exit code."""
        if not self.keep:
            return self._engine.run_to_end(container, on_line)
        self._engine.start(container)
        return self._engine.execute(container, command, on_line)

    @contextmanager
    def kept(self, container: str) -> Iterator[None]:
        """Keep the container if the block fails, and add the commands for it to the error's hint."""
        try:
            yield
        except (BuildError, CheckError, IntegrityError) as error:
            error.hint = "\n".join(filter(None, (error.hint, *self.keep_container(container))))
            raise

    def keep_copy(self, container: str, error: FactoryError) -> None:
        """Keep a running copy of an ended container of this run, which cannot be entered itself.

        The id is read from the build's output, where a program can print any id: containers of other
        runs are not copied.
        """
        if not container or not self.keep or self._run.cancelled.is_set():
            return
        labels = (self._engine.inspect_container(container) or {}).get("Config", {}).get("Labels") or {}
        if labels.get(RUN_LABEL) != self._run.name:
            return
        tag = f"{self._run.workspace.checkout}-{container[:12]}"
        image = self._engine.commit(container, repository=LEFTOVERS, tag=tag)
        copy = self._engine.create(
            image,
            command=_IDLE,
            network="none",
            name=self.new_name(),
            labels={RUN_LABEL: self._run.name},
            **limits(self._engine),
        )
        self._engine.start(copy)
        error.hint = "\n".join(filter(None, (error.hint, *self.keep_container(copy))))

    def keep_container(self, container: str) -> list[str]:
        """Keep a running container; return the commands to enter and remove it; empty if it is not kept."""
        if not self.keep or self._run.cancelled.is_set():
            return []
        self.containers.add(container)
        record = self._engine.inspect_container(container)
        name = record["Name"].removeprefix("/") if record else container[:12]
        return [f"look inside: docker exec -it {name} bash", f"remove it: docker rm --force {name}"]
