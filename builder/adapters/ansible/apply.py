"""Apply the roles of a plan to a running container, any number of times.

Mounts, settings and command are the same as in a build. Only builds run the play of a layer as the
main process of a container, and the play of an AMI over SSH through Packer.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.adapters.ansible import kernel_modules, playbook
from builder.adapters.ansible.playbook import ContainerSetup, Failure, Listener, RoleResult
from builder.adapters.ansible.runtime import MOUNT
from builder.adapters.engine.client import Bind, Engine
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.events import Stream
from builder.model import Layer, Plan, Value
from builder.plan import variables_of

_MODULES = Path(MOUNT) / "modules"


@contextmanager
def mounts(
    run: Run, root: Path, plan: Plan, mirror: Mirror, *, base_image: str, engine: Engine, compiler: str = ""
) -> Iterator[ContainerSetup]:
    """Prepare the mounts of a container to which several plans are applied; `plan` determines the system.

    `compiler` is the name of `base_image` if this image is not the base of that system.
    """
    modules = modules_folder(run)
    kernel_modules.prepare(run, modules, cache=kernel_modules.ROLES, note=lambda _: None)
    cached, made = kernel_modules.cached, kernel_modules.made
    binds = (
        Bind(source=str(cached(modules)), target=str(cached(_MODULES))),
        Bind(source=str(made(modules)), target=str(made(_MODULES)), writable=True),
    )
    layer = _one_layer(plan)
    with playbook.mounts(
        run, root, plan, layer, mirror, base_image=base_image, compiler=compiler, engine=engine
    ) as setup:
        yield dataclasses.replace(setup, mounts=(*setup.mounts, *binds))
    kernel_modules.keep(run, modules, cache=kernel_modules.ROLES)


def modules_folder(run: Run) -> Path:
    """Return the folder for the kernel modules of a role run, below the run's scratch folder."""
    return run.scratch / "modules"


def module_variables(folder: Path) -> dict[str, Value]:
    """Return the play variables for cached and new archives of kernel modules in `folder`."""
    return {
        "factory_module_cache": str(kernel_modules.cached(folder)),
        "factory_made_modules": str(kernel_modules.made(folder)),
    }


@dataclass(frozen=True, kw_only=True)
class Applied:
    """Result of one play."""

    code: int
    seconds: float
    listener: Listener

    @property
    def roles(self) -> Mapping[str, RoleResult]:
        """Results by role, in the order of the play; tasks outside roles have the key ""."""
        return self.listener.roles

    @property
    def failure(self) -> Failure | None:
        return self.listener.failure

    @property
    def passed(self) -> bool:
        return self.code == 0 and self.failure is None

    @property
    def changed(self) -> list[str]:
        """Names, as `role : task`, of the tasks that changed something."""
        return [task for result in self.roles.values() for task in result.changed]


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Applies plans to one running container, which was created with the mounts that `mounts` returns."""

    engine: Engine
    container: str
    settings: Path
    mirror: Mirror
    events: Stream

    def apply(self, plan: Plan, *, tasks: Sequence[Mapping[str, Any]] = (), step: str = "roles") -> Applied:
        """Run the play with the roles of a plan, or with `tasks` and the plan's variables."""
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
        """Write the variables and configuration files that a play of this plan reads."""
        more = module_variables(_MODULES)
        playbook.write_settings(self.settings, _one_layer(plan), plan, self.mirror, more)


def _one_layer(plan: Plan) -> Layer:
    """Return a single layer with all components of a plan."""
    return Layer(
        name="roles",
        kind="components",
        key=plan.key,
        parent=plan.layers[0].key,
        inputs={},
        components=plan.components,
        variables=variables_of(plan),
    )
