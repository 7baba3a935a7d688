"""A fresh machine or build container for applying and checking roles, removed at the end of the block."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.adapters.ansible import apply, playbook
from builder.adapters.ansible.apply import Applied, Applier
from builder.adapters.ansible.ssh import SshAccess
from builder.adapters.checks.testinfra import run_checks
from builder.adapters.container.maker import LayerMaker
from builder.adapters.engine.client import Engine
from builder.adapters.engine.limits import bounds, limits
from builder.adapters.engine.network import open_network
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.errors import BuildError
from builder.events import Stream
from builder.marks import RUN_LABEL
from builder.model import Check, Plan
from builder.rehearsal.ec2 import cgroups, machine
from builder.sources import check_folders
from builder.wait import until

_BOOT_S = 120
_WAIT = ("sleep", "infinity")


@dataclass(frozen=True, kw_only=True)
class RoleMachine:
    """A running container in which the checks of roles run."""

    run: Run
    root: Path
    events: Stream
    engine: Engine
    container: str

    def execute(self, *command: str) -> tuple[int, str]:
        """Run a program in the container; return its exit code, and stdout and stderr as one text."""
        lines: list[str] = []
        code = self.engine.execute(self.container, command, lines.append)
        return code, "\n".join(lines)

    def shell(self, script: str) -> str:
        """Run a shell script in the container and return its output; raise BuildError if it fails."""
        code, output = self.execute("sh", "-ec", script)
        if code != 0:
            raise BuildError(f"{script}: exit code {code}", details=output)
        return output

    def wait_until_booted(self, *states: str) -> None:
        """Wait until systemd has booted; raise BuildError if its system state is not in `states`."""
        state = ""

        def is_booted() -> bool:
            nonlocal state
            _, state = self.execute("systemctl", "is-system-running")
            return state in ("running", "degraded")

        booted = until(is_booted, timeout_s=_BOOT_S, every_s=0.3, cancelled=self.run.cancelled)
        if not booted or state not in states:
            _, failed = self.execute("systemctl", "--failed")
            raise BuildError(
                f"the machine did not boot: systemd is '{state}'", hint="builder doctor", details=failed
            )

    def check(self, plan: Plan, components: Sequence[str] = ()) -> tuple[Check, ...]:
        """Run the checks of components; if the plan ends with component `cleanup`, on a restarted copy."""
        chosen = components or plan.components
        if "cleanup" not in plan.components:
            return self._run_checks(plan, chosen)
        with self.restarted(plan) as fresh:
            return fresh._run_checks(plan, chosen)

    def _run_checks(self, plan: Plan, components: Sequence[str]) -> tuple[Check, ...]:
        folders = check_folders(self.root, components, "")
        environment = os.environ | {"DOCKER_HOST": self.engine.url}
        host = f"docker://{self.container}"
        return run_checks(self.run, self.root, self.events, plan, folders, host, environment=environment)

    @contextmanager
    def restarted(self, plan: Plan) -> Iterator["RoleMachine"]:
        """Commit the container and start the committed image without mounts and network."""
        engine, labels = self.engine, {RUN_LABEL: self.run.name}
        parent = (engine.inspect_container(self.container) or {})["Image"]
        config = (engine.inspect_image(parent) or {}).get("Config") or {}
        image = engine.commit(self.container, labels=labels, parent_config=config)
        try:
            with ExitStack() as stack:
                container = _start_alone(engine, plan, image, stack, labels)
                fresh = replace(self, container=container)
                if plan.capabilities["has_systemd"]:
                    # Services for absent devices fail here; the checks define which failures are allowed.
                    fresh.wait_until_booted("running", "degraded")
                yield fresh
        finally:
            engine.remove_image(image)


@dataclass(frozen=True, kw_only=True)
class ApplyingMachine(RoleMachine):
    """A container with the mounts of a build, to which roles are applied."""

    applier: Applier

    def apply(self, plan: Plan, *, tasks: Sequence[Mapping[str, Any]] = (), step: str = "roles") -> Applied:
        """Run an Ansible play with the plan's roles; if `tasks` is given, run these tasks instead."""
        return self.applier.apply(plan, tasks=tasks, step=step)


@contextmanager
def open_machine(
    run: Run,
    root: Path,
    plan: Plan,
    mirror: Mirror,
    events: Stream,
    *,
    image: str = "",
    keep: bool = False,
    ssh: SshAccess | None = None,
    tmpfs: Mapping[str, str] | None = None,
) -> Iterator[ApplyingMachine]:
    """Start a container for the roles of a plan; remove it when the block ends, unless `keep`.

    The default of `image` is the base image of the plan's system.
    """
    engine = Engine()
    given = bool(image)
    with ExitStack() as stack:
        image = image or _image(engine, run, root, plan, mirror, events)
        compiler = image if given else ""
        setup = stack.enter_context(
            apply.mounts(run, root, plan, mirror, base_image=image, compiler=compiler, engine=engine)
        )
        access = (ssh.prepare(setup.settings),) if ssh else ()
        started = stack.enter_context(ExitStack())
        network = open_network(
            engine,
            image,
            mirror.loopback_servers,
            folder=run.socket_dir,
            labels={RUN_LABEL: run.name},
            ports=ssh.ports if ssh else None,
            **_keeper_options(engine, plan),
        )
        started.callback(network.close)
        container = _start(
            engine,
            plan,
            image,
            started,
            keeper=network.container,
            labels={RUN_LABEL: run.name},
            network=network.mode,
            mounts=(*setup.mounts, *access),
            tmpfs={**setup.tmpfs, **(tmpfs or {})},
        )
        if keep:
            started.pop_all()
            events.emit("note", text=_kept(container, network.container, mirror))
        applier = Applier(
            engine=engine, container=container, settings=setup.settings, mirror=mirror, events=events
        )
        opened = ApplyingMachine(
            run=run, root=root, events=events, engine=engine, container=container, applier=applier
        )
        if plan.capabilities["has_systemd"]:
            # Services of a user's image may fail because a container lacks features: accept `degraded`.
            opened.wait_until_booted("running", *(("degraded",) if given else ()))
        yield opened
        _keep_packages(setup, mirror)


def _kept(container: str, keeper: str, mirror: Mirror) -> str:
    """Return the commands to enter and to remove a kept container, and the servers that it cannot reach."""
    name, other = container[:12], keeper[:12]
    servers = ", ".join(f"{host}:{port}" for host, port in mirror.loopback_servers)
    lost = f"; after this command it does not reach {servers}" if servers else ""
    return f"container {name} is kept: docker exec -it {name} bash; docker rm -f {name} {other}{lost}"


def _keep_packages(setup: playbook.ContainerSetup, mirror: Mirror) -> None:
    """Cache the downloaded packages for later builds; not with mirror.prefixes, which may alter packages."""
    if not mirror.settings.prefixes:
        setup.keep_packages()


def _image(engine: Engine, run: Run, root: Path, plan: Plan, mirror: Mirror, events: Stream) -> str:
    if not plan.capabilities["is_container"]:
        return machine.ensure(
            engine, run, plan.system, mirror, lambda line: events.emit("step.log", step="machine", text=line)
        )
    maker = LayerMaker(
        engine=engine,
        run=run,
        root=root,
        events=events,
        jobs=1,
        mirror=lambda _: mirror,
        cache=None,
        last_layers=lambda _: {},
    )
    try:
        return maker.ensure_base(plan)
    finally:
        maker.close()


def _start(
    engine: Engine,
    plan: Plan,
    image: str,
    stack: ExitStack,
    *,
    keeper: str,
    labels: Mapping[str, str],
    **more: Any,
) -> str:
    """Start a container that `stack` removes; if it is a machine, below the control groups of its keeper.

    A build container has the environment that the plan's image would have.
    """
    if plan.capabilities["is_container"]:
        container = engine.create(
            image,
            command=_WAIT,
            init=True,
            labels=labels,
            environment={name: value for layer in plan.layers for name, value in layer.environment.items()},
            **limits(engine),
            **more,
        )
    else:
        container = machine.create(engine, image, keeper=keeper, labels=labels, **more)
    stack.callback(engine.remove_container, container)
    engine.start(container)
    return container


def _start_alone(engine: Engine, plan: Plan, image: str, stack: ExitStack, labels: Mapping[str, str]) -> str:
    """Start a container without a network."""
    options = _keeper_options(engine, plan)
    keeper = engine.create(
        image, command=_WAIT, init=True, labels=labels, network="none", **bounds(engine), **options
    )
    stack.callback(engine.remove_container, keeper)
    engine.start(keeper)
    return _start(engine, plan, image, stack, keeper=keeper, labels=labels, network="none")


def _keeper_options(engine: Engine, plan: Plan) -> dict[str, Any]:
    return {} if plan.capabilities["is_container"] else cgroups.keeper_options(engine)
