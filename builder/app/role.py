"""Applies Ansible roles to a fresh container once or twice and runs the checks of the roles."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from builder.adapters.ansible.apply import Applied
from builder.adapters.ansible.failures import failure
from builder.adapters.container.maker import sweep
from builder.adapters.engine.client import Engine
from builder.app.context import Context
from builder.app.interrupts import interruptible
from builder.app.lanes.lane import Request, Work
from builder.app.production import clear_dead, working
from builder.app.role_machine import ApplyingMachine, RoleMachine, open_machine
from builder.errors import CheckError
from builder.events import Stream
from builder.model import Check, Plan, Report


@contextmanager
def open_session(context: Context, plan: Plan, command: str, *, keep: bool = False) -> Iterator[Work]:
    """Open a run with its log and screen; at its end, remove its containers and images unless `keep`."""
    with interruptible(), ExitStack() as stack:
        clear_dead(context.workspace)
        work = stack.enter_context(working(context, command, [plan.target.name], Request()))
        if not keep:
            stack.callback(sweep, Engine(), work.run.name)
        yield work


def try_roles(
    context: Context,
    plan: Plan,
    *,
    image: str = "",
    twice: bool = False,
    checks: bool = True,
    keep: bool = False,
) -> tuple[Check, ...]:
    """Apply the roles of a plan to a fresh machine and run their checks; raise if a step fails."""
    found: tuple[Check, ...] = ()
    with open_session(context, plan, "role", keep=keep) as work, ExitStack() as stack:
        with step(plan, "machine", work.events) as end:
            machine = stack.enter_context(
                open_machine(
                    work.run, context.root, plan, work.mirror(plan), work.events, image=image, keep=keep
                )
            )
            end.update(text=f"container {machine.container[:12]}", outcome="built")
        _apply(machine, plan, "first run")
        if twice:
            require_unchanged(_apply(machine, plan, "second run"))
        if checks:
            found = run_checks(machine, plan)
    return found


def step(plan: Plan, name: str, events: Stream) -> AbstractContextManager[dict[str, Any]]:
    return events.step(f"{plan.target.name}/{name}", name, target=plan.target.name)


def _apply(machine: ApplyingMachine, plan: Plan, name: str) -> Applied:
    with step(plan, name, machine.events) as end:
        outcome = machine.apply(plan, step=f"{plan.target.name}/{name}")
        if not outcome.passed:
            raise failure(name, plan, outcome.listener, outcome.code, machine.applier.mirror)
        tasks = sum(result.tasks for result in outcome.roles.values())
        text = f"{tasks} tasks, changed={len(outcome.changed)}"
        end.update(text=text, outcome="passed")
    return outcome


def require_unchanged(outcome: Applied) -> None:
    """Raise CheckError if the second run changed anything."""
    if outcome.changed:
        raise CheckError(
            f"not idempotent: the second run changed {', '.join(outcome.changed[:3])}",
            hint="make these tasks report `changed` only when they change something",
            details="\n".join(outcome.changed),
        )


def run_checks(machine: RoleMachine, plan: Plan, components: Sequence[str] = ()) -> tuple[Check, ...]:
    """Run the checks of all or some components; raise CheckError if any fails or none runs."""
    with step(plan, "checks", machine.events) as end:
        found = machine.check(plan, components)
        report = Report(reference=machine.container, checks=found, seconds=0.0)
        outcomes = ("passed", "failed", "skipped")
        text = ", ".join(f"{report.count(word)} {word}" for word in outcomes)
        end.update(text=text, outcome="passed" if report.passed else "failed", explained=not report.passed)
    if not report.passed:
        failed = [check for check in found if check.outcome == "failed"]
        raise CheckError(
            f"{len(failed)} of {len(found)} checks failed: {', '.join(check.name for check in failed[:3])}",
            hint="correct the role or its checks, then re-run the command",
            details="\n\n".join(f"{check.name}\n{check.message}" for check in failed),
        )
    return found
