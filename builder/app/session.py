"""A build that has something to do: run, screen, threads, and an orderly end whatever happens."""

import dataclasses
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import cache

from builder.adapters.checks.testinfra import ImageChecker
from builder.adapters.container.maker import LayerMaker, sweep
from builder.adapters.engine.client import Engine
from builder.adapters.host.receipts import Receipts, now
from builder.adapters.host.workspace import Run, Workspace, dead_runs, forget_run, open_run, write_atomically
from builder.adapters.upstream import mirror
from builder.adapters.upstream.mirror import Mirror
from builder.app.context import Context
from builder.app.interrupts import held_back, interruptible, wait_for_all
from builder.app.lanes.container import open_publisher
from builder.errors import FactoryError, Interrupted
from builder.events import Event, Stream
from builder.model import Plan, Receipt, Suite
from builder.pipeline import Tools, produce
from builder.ports import LayerCache
from builder.screen.attempt import Attempt, attempt_after
from builder.screen.files import RunFiles
from builder.screen.text import look
from builder.stack.loading import load
from builder.stack.obeying import judge

_SETTLE_S = 60.0


def produce_all(
    context: Context, plans: Sequence[Plan], *, engine: Engine, publish: bool, jobs: int, as_json: bool
) -> list[Receipt]:
    """Receipts of all plans, made side by side; the first error is raised after all have ended."""
    plans, warnings = obey(context, plans)
    label = plans[0].target.name if len(plans) == 1 else f"{len(plans)}-targets"
    recorded: list[Event] = []
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        clear_dead(context.workspace, engine)
        if any(plan.target.kind == "ami" for plan in plans):
            from builder.app.lanes import ami

            for dead in ami.dead_runs(context):
                dead.clear(context, keep_complete=True)
        run = stack.enter_context(open_run(context.workspace, label))
        events = Stream(recorded.append, stack.enter_context(RunFiles(run.folder)))
        events.subscribe(stack.enter_context(open_screen(as_json=as_json)))
        started = time.monotonic()
        names = ",".join(plan.target.name for plan in plans)
        events.emit("run.start", text="build", run=run.name, targets=names)
        for text in [*warnings, *(unverified(plan) for plan in plans if plan.unverified)]:
            events.emit("note", text=text)
        try:
            outcomes = _produce(context, plans, run, engine, events, publish=publish, jobs=jobs)
            ok = all(isinstance(outcome, Receipt) for outcome in outcomes)
            events.emit("run.end", ok=ok, seconds=time.monotonic() - started)
        except Interrupted as error:
            events.emit("note", text=error.message)
            events.emit("run.end", ok=False, seconds=time.monotonic() - started)
            raise
        for plan, outcome in zip(plans, outcomes, strict=True):
            _write_report(run, plan, outcome, recorded)
    errors = [outcome for outcome in outcomes if isinstance(outcome, FactoryError)]
    if errors:
        first = errors[0]
        first.hint = "\n".join(filter(None, (first.hint, f"log: {run.folder / 'log.txt'}")))
        raise first
    return [outcome for outcome in outcomes if isinstance(outcome, Receipt)]


def obey(context: Context, plans: Sequence[Plan]) -> tuple[list[Plan], list[str]]:
    """The plans with the settings of their jobs, and what the rules warn of; an error refuses the build."""
    knowledge = load(context.root)
    verdicts = [judge(knowledge, plan) for plan in plans]
    warnings = [
        f"{plan.target.name}: {', '.join(verdict.warnings)} warn (builder stack check {plan.stack.name})"
        for plan, verdict in zip(plans, verdicts, strict=True)
        if verdict.warnings
    ]
    settled = [
        dataclasses.replace(plan, settings=verdict.settings)
        for plan, verdict in zip(plans, verdicts, strict=True)
    ]
    return settled, warnings


def unverified(plan: Plan) -> str:
    """What a build says of digests that are somebody's word."""
    first, *more = plan.unverified
    others = f" and {len(more)} more" if more else ""
    return f"{plan.target.name}: not compared with the bytes yet: {first}{others} (builder lock --verify)"


def _produce(
    context: Context,
    plans: Sequence[Plan],
    run: Run,
    engine: Engine,
    events: Stream,
    *,
    publish: bool,
    jobs: int,
) -> list[Receipt | FactoryError]:
    ledger = Receipts(context.workspace, root=context.root, run=run)

    discovering = threading.Lock()

    @cache
    def discover(system: str, stack: str, suites: tuple[Suite, ...]) -> Mirror:
        return mirror.discover(
            context.site.mirror, context.catalog.systems[system], context.catalog.stacks[stack], suites
        )

    def mirror_of(plan: Plan) -> Mirror:
        with discovering:
            return discover(plan.system.name, plan.stack.name, plan.suites)

    maker = LayerMaker(
        engine=engine,
        run=run,
        root=context.root,
        events=events,
        jobs=jobs,
        mirror=mirror_of,
        cache=_open_cache(context, engine, run),
        last_layers=ledger.last_layers,
    )
    kinds = {plan.target.kind for plan in plans}
    publisher = open_publisher(context, engine, run.cancelled) if publish and "container" in kinds else None
    tools = {
        "container": Tools(
            maker=maker,
            checker=ImageChecker(
                engine_url=engine.url,
                run=run,
                root=context.root,
                events=events,
                environment=lambda: dict(os.environ),
            ),
            ledger=ledger,
            events=events,
            publisher=publisher,
        )
    }
    if "ami" in kinds:
        from builder.app.lanes import ami

        tools["ami"] = ami.open_tools(context, run, ledger, events, mirror=mirror_of, publish=publish)
    pool = ThreadPoolExecutor(max_workers=len(plans))
    futures: list[Future[Receipt | FactoryError]] = []
    try:
        with held_back():
            futures = [pool.submit(_one, plan, tools[plan.target.kind]) for plan in plans]
        wait_for_all(futures)
    except Interrupted:
        run.cancelled.set()
        raise
    finally:
        settle(engine, run, futures)
        pool.shutdown(wait=True)
        maker.close()
        if "ami" in kinds:
            ami.clear_run(context, run)
    return [future.result() for future in futures]


def _open_cache(context: Context, engine: Engine, run: Run) -> LayerCache | None:
    """The repository through which the site shares layers, if it names one."""
    place = context.site.registry.cache
    if not place:
        return None
    from builder.adapters.registry.publisher import RegistryCache

    return RegistryCache(engine=engine, place=place, blobs=context.blobs, cancelled=run.cancelled)


def _one(plan: Plan, tools: Tools) -> Receipt | FactoryError:
    try:
        return produce(plan, tools)
    except FactoryError as error:
        tools.events.emit("note", text=f"{plan.target.name}: {error.message}")
        return error


def settle(engine: Engine, run: Run, futures: Sequence[Future[Receipt | FactoryError]]) -> None:
    """Removes what a run still has in the engine, until nobody of it can make anything more.

    Where the engine does not answer, the run is marked, and the next one clears up after it.
    """
    deadline = time.monotonic() + _SETTLE_S
    pending = list(futures)
    while pending and time.monotonic() < deadline:
        with suppress(FactoryError):
            sweep(engine, run.name)
        _, rest = wait(pending, timeout=0.3)
        pending = list(rest)
    try:
        sweep(engine, run.name)
    except FactoryError:
        run.unsettled.set()


def clear_dead(workspace: Workspace, engine: Engine) -> None:
    """Removes what runs left whose process is gone."""
    for name in dead_runs(workspace):
        sweep(engine, name)
        forget_run(workspace, name)


def open_screen(*, as_json: bool) -> AbstractContextManager[Callable[[Event], None]]:
    """The subscriber that a person or a program looks at."""
    if as_json:
        from builder.screen.ndjson import JsonLines

        return nullcontext(JsonLines(sys.stdout))
    if look(sys.stderr, os.environ).live:
        from builder.screen.live import LiveTree

        return LiveTree(sys.stderr, os.environ)
    from builder.screen.plain import PlainLines

    return nullcontext(PlainLines(sys.stderr))


def _write_report(run: Run, plan: Plan, outcome: Receipt | FactoryError, events: Sequence[Event]) -> None:
    from builder.screen.report import render

    attempt: Receipt | Attempt = (
        outcome
        if isinstance(outcome, Receipt)
        else attempt_after(outcome, plan=plan, events=events, run=run.name, created=now(), commit="")
    )
    path = run.folder / f"report-{plan.target.name}.html"
    write_atomically(path, render(attempt, events, environment=_environment()))


def _environment() -> Mapping[str, str]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
