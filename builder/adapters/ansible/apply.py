"""Applies the roles of a plan to a container that runs, as often as wanted.

The mounts, the settings and the command are those of a build; only the container outlives the play. Layers
run the same play as their container's own program, AMIs over SSH through Packer.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.adapters.ansible import playbook
from builder.adapters.ansible.playbook import ContainerSetup, Failure, Listener, RoleResult
from builder.adapters.ansible.runtime import MOUNT
from builder.adapters.engine.client import Bind, Engine
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.events import Stream
from builder.model import Layer, Plan
from builder.plan import variables_of

# Kernel modules that were compiled before, by what they were compiled from.
_MODULES = f"{MOUNT}/modules"


@contextmanager
def mounts(
    run: Run, root: Path, plan: Plan, mirror: Mirror, *, base_image: str, engine: Engine
) -> Iterator[ContainerSetup]:
    """The mounts of a container to which plans are applied; `plan` decides its system."""
    modules = Bind(source=str(run.workspace.cache("modules")), target=_MODULES, writable=True)
    with playbook.mounts(
        run, root, plan, _one_layer(plan), mirror, base_image=base_image, engine=engine
    ) as setup:
        yield dataclasses.replace(setup, mounts=(*setup.mounts, modules))


@dataclass(frozen=True, kw_only=True)
class Applied:
    """The outcome of one play."""

    code: int
    seconds: float
    listener: Listener

    @property
    def roles(self) -> Mapping[str, RoleResult]:
        """Role → its results, in the order of the play; the play's own tasks are under ""."""
        return self.listener.roles

    @property
    def failure(self) -> Failure | None:
        return self.listener.failure

    @property
    def passed(self) -> bool:
        return self.code == 0 and self.failure is None

    @property
    def changed(self) -> list[str]:
        """ "role : task" of every task that changed something."""
        return [task for result in self.roles.values() for task in result.changed]


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Applies plans to one running container that has the mounts of `mounts`."""

    engine: Engine
    container: str
    settings: Path
    mirror: Mirror
    events: Stream

    def apply(self, plan: Plan, *, tasks: Sequence[Mapping[str, Any]] = (), step: str = "roles") -> Applied:
        """Run the play with the roles of a plan, or these tasks with its variables."""
        self.write_settings(plan)
        command = playbook.command()
        if tasks:
            content = [{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]
            (self.settings / "tasks.yml").write_text(json.dumps(content), encoding="utf-8")
            command = playbook.command(f"{MOUNT}/run/tasks.yml")
        listener, started = Listener(self.events, step), time.monotonic()
        code = self.engine.execute(self.container, command, listener.line)
        return Applied(code=code, seconds=time.monotonic() - started, listener=listener)

    def write_settings(self, plan: Plan) -> None:
        """Write what a play of this plan reads."""
        more = {"factory_module_cache": _MODULES}
        playbook.write_settings(self.settings, _one_layer(plan), plan, self.mirror, more)


def _one_layer(plan: Plan) -> Layer:
    """All components of a plan as what one play applies."""
    return Layer(
        name="roles",
        kind="components",
        key=plan.key,
        parent=plan.layers[0].key,
        inputs={},
        components=plan.components,
        variables=variables_of(plan),
    )
