"""Machines for tests of roles: the product's, with stand-ins in place of the vendors."""

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

Watch = Callable[[str], None]


@dataclass
class Machine:
    """A machine to which one plan after the other is applied; `watch` gets "role : task" of each task."""

    made: ApplyingMachine
    site: Site | None
    watch: Watch = lambda _: None

    def apply(
        self, plan: Plan, *, tasks: Sequence[Mapping[str, Any]] = (), watch: Watch = lambda _: None
    ) -> Applied:
        self.watch = watch
        return self.made.apply(plan, tasks=tasks)

    def hear(self, event: Event) -> None:
        if event.name == "step.task" and event.step == "roles":
            self.watch(event.text)
        elif event.name == "step.log":
            print(event.text)

    def shell(self, script: str) -> str:
        return self.made.shell(script)

    def put(self, files: Mapping[str, Content | Path]) -> None:
        put(self.made.engine, self.made.container, files)

    def check(self, plan: Plan) -> tuple[Check, ...]:
        return self.made.check(plan)

    def failures(self, plan: Plan) -> list[str]:
        """The checks that do not hold, each with its message."""
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
    """Start the container that a plan's roles belong into; it shares the caches of builds."""
    places = mirror.discover(settings_of(site), plan.system, plan.stack)
    events = Stream()
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory(prefix="roles-"))
        workspace = Workspace(home=find_workspace(ROOT).home, out=Path(out))
        run = stack.enter_context(open_run(workspace, label))
        # A system that cannot be made here is played by an image that has the site's files from the start.
        is_played = site is not None and plan.system.bootstrap is None
        image = stack.enter_context(image_of(run, site, plan.system)) if site and is_played else ""
        made = stack.enter_context(
            role_machine.open_machine(
                run, root_of(site), plan, places, events, image=image, ssh=ssh, tmpfs=tmpfs
            )
        )
        machine = Machine(made, site)
        events.subscribe(machine.hear)
        machine.put(site.base if site and not is_played else {})
        yield machine
