"""Machines for role tests: like those of `builder role`, with stand-ins for vendors' repositories."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.adapters.ansible.apply import Applied
from builder.adapters.ansible.ssh import SshAccess
from builder.adapters.host.workspace import Workspace, find_workspace, open_run
from builder.adapters.upstream import mirror
from builder.app import role_machine
from builder.app.role_machine import ApplyingMachine
from builder.events import Event, Stream
from builder.model import Check, Plan
from tests.standins.image import image_of, put
from tests.standins.overlay import ROOT, root_of, settings_of
from tests.standins.site import Content, Site

TaskCallback = Callable[[str], None]


@dataclass
class Machine:
    """Machine to which several plans can be applied; calls `on_task` with "role : task" for each task."""

    opened: ApplyingMachine
    site: Site | None
    on_task: TaskCallback = lambda _: None

    def apply(
        self, plan: Plan, *, tasks: Sequence[Mapping[str, Any]] = (), on_task: TaskCallback = lambda _: None
    ) -> Applied:
        self.on_task = on_task
        return self.opened.apply(plan, tasks=tasks)

    def handle_event(self, event: Event) -> None:
        if event.name == "step.task" and event.step == "roles":
            self.on_task(event.text)
        elif event.name == "step.log":
            print(event.text)

    def shell(self, script: str) -> str:
        return self.opened.shell(script)

    def put(self, files: Mapping[str, Content | Path]) -> None:
        put(self.opened.engine, self.opened.container, files)

    def check(self, plan: Plan) -> tuple[Check, ...]:
        return self.opened.check(plan)

    def failures(self, plan: Plan) -> list[str]:
        """Return name and message of each failed check."""
        return [f"{check.name}: {check.message}" for check in self.check(plan) if check.outcome == "failed"]


@contextmanager
def open_machine(
    plan: Plan,
    *,
    site: Site | None,
    label: str,
    ssh: SshAccess | None = None,
    tmpfs: Mapping[str, str] | None = None,
) -> Iterator[Machine]:
    """Start a machine for the roles of a plan, with the same caches as builds."""
    mirrors = mirror.discover(settings_of(site), plan.system, plan.stack)
    events = Stream()
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory(prefix="roles-"))
        workspace = Workspace(home=find_workspace(ROOT).home, out=Path(out))
        run = stack.enter_context(open_run(workspace, label))
        # For a system that cannot be bootstrapped, an image with the files of the stand-in site is used.
        is_imitated = site is not None and plan.system.bootstrap is None
        image = stack.enter_context(image_of(run, site, plan.system)) if site and is_imitated else ""
        opened = stack.enter_context(
            role_machine.open_machine(
                run, root_of(site), plan, mirrors, events, image=image, ssh=ssh, tmpfs=tmpfs
            )
        )
        machine = Machine(opened, site)
        events.subscribe(machine.handle_event)
        machine.put(site.base if site and not is_imitated else {})
        yield machine
