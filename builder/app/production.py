"""Builds targets in parallel: opens a run with its log and screen, starts workers, always cleans up."""

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from builder.adapters.container.maker import sweep
from builder.adapters.engine.client import Engine
from builder.adapters.host.checkout import commit_of
from builder.adapters.host.receipts import Receipts, now
from builder.adapters.host.workspace import Run, Workspace, dead_runs, forget_run, open_run, write_atomically
from builder.app.context import Context
from builder.app.estimate import estimate_s
from builder.app.interrupts import defer_signals, interruptible, wait_for_all
from builder.app.lanes.lane import Lane, Request, Work
from builder.app.mirrors import mirrors_of
from builder.errors import FactoryError, Interrupted, MissingError
from builder.events import Event, Recorder, Stream
from builder.model import Plan, Receipt
from builder.pipeline import Tools, produce, report_reused
from builder.screen import summary
from builder.screen.attempt import Attempt, attempt_after, attempt_of
from builder.screen.files import RunFiles
from builder.screen.live import LiveTree
from builder.screen.ndjson import JsonLines
from builder.screen.plain import PlainLines
from builder.screen.report import render
from builder.screen.text import look

_STOP_S = 60.0  # time for the workers of an interrupted run to end


def produce_all(
    context: Context,
    plans: Sequence[Plan],
    reused: Sequence[Receipt],
    made: list[Receipt],
    *,
    lanes: Mapping[str, Lane],
    request: Request,
    cancelled: threading.Event,
) -> None:
    """Build the targets in parallel and add their receipts to `made`; at the end, raise the first error."""
    targets = [*(receipt.plan.target.name for receipt in reused), *(plan.target.name for plan in plans)]
    recorded = Recorder()
    outcomes: list[Receipt | FactoryError] = []
    with interruptible():
        clear_dead(context.workspace)
        for lane in lanes.values():
            lane.clear_dead()
        try:
            with working(context, "build", targets, request, recorded, cancelled=cancelled) as work:
                for receipt in reused:
                    report_reused(receipt, work.events)
                _estimate(context, plans, lanes, work)
                for text in [text for plan in plans for text in (*warnings(plan), *unverified(plan))]:
                    work.events.emit("note", text=text)
                outcomes = _produce(plans, lanes, work)
                made += [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
                _raise_first(outcomes, work.run)
        finally:
            for plan, outcome in zip(plans, outcomes, strict=False):
                attempt = _attempt(context.root, work.run, plan, outcome, recorded.events)
                write_report(work.run.folder, attempt, recorded.events)


@contextmanager
def working(
    context: Context,
    command: str,
    targets: Sequence[str],
    request: Request,
    *subscribers: Callable[[Event], None],
    cancelled: threading.Event | None = None,
) -> Iterator[Work]:
    """Open a run with its log, screen and events; the last event says how the run ended."""
    label = targets[0] if len(targets) == 1 else f"{len(targets)}-targets"
    label = label if command == "build" else f"{command}-{label}"
    with ExitStack() as stack:
        run = stack.enter_context(open_run(context.workspace, label, cancelled=cancelled))
        files = stack.enter_context(RunFiles(run.folder))
        events = Stream(*subscribers, files, cancelled=run.cancelled)
        events.subscribe(stack.enter_context(_open_screen(as_json=request.as_json)))
        started, is_good, ending = time.monotonic(), False, ""
        events.emit("run.start", text=command, run=run.name, targets=",".join(targets))
        try:
            yield Work(
                run=run,
                events=events,
                ledger=Receipts(context.workspace, root=context.root, run=run),
                mirror=mirrors_of(context),
                request=request,
            )
            is_good = True
        except Interrupted as error:
            events.emit("note", text=error.message)
            ending = "stopped"
            raise
        finally:
            events.emit("run.end", text=ending, ok=is_good, seconds=time.monotonic() - started)


def _raise_first(outcomes: Sequence[Receipt | FactoryError], run: Run) -> None:
    """Raise the first error with the path of the run's log in its hint; print further errors before."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, FactoryError)]
    if errors:
        first = errors[0]
        others = dict.fromkeys(summary.error(other) for other in errors[1:])
        for text in others:
            if text != summary.error(first) and not run.cancelled.is_set():
                print(text, file=sys.stderr)
        first.hint = "\n".join(filter(None, (first.hint, f"log: {run.folder / 'log.txt'}")))
        raise first


def _estimate(context: Context, plans: Sequence[Plan], lanes: Mapping[str, Lane], work: Work) -> None:
    """Emit an estimate of the run's duration, if receipts of earlier runs have all its steps."""
    request = work.request
    missing = {plan.target.name: lanes[plan.target.kind].missing_layers(plan, request) for plan in plans}
    seconds = estimate_s(context.workspace.out, missing, publish=request.publish, jobs=request.jobs)
    if seconds:
        work.events.emit("run.estimate", seconds=seconds)


def warnings(plan: Plan) -> list[str]:
    """Return a note for each compatibility rule that warns about a plan."""
    return [f"{plan.target.name}: warning: {text}" for text in plan.warnings]


def unverified(plan: Plan) -> list[str]:
    """Return a note about locked digests that were never compared with the downloaded file."""
    if not plan.unverified:
        return []
    first, *more = plan.unverified
    others = f" and {len(more)} more" if more else ""
    return [f"{plan.target.name}: digest not verified: {first}{others} (builder lock --verify)"]


def _produce(plans: Sequence[Plan], lanes: Mapping[str, Lane], work: Work) -> list[Receipt | FactoryError]:
    futures: list[Future[Receipt | FactoryError]] = []
    tools: dict[str, Tools] = {}
    with ExitStack() as stack:
        try:
            for kind, lane in lanes.items():
                tools[kind] = lane.begin(work)
                stack.callback(lane.end)
            pool = ThreadPoolExecutor(max_workers=len(plans))
            stack.callback(pool.shutdown, wait=True)
            with defer_signals():
                futures = [pool.submit(_outcome, plan, tools[plan.target.kind], work) for plan in plans]
            wait_for_all(futures, check=work.events.raise_failure)
        except BaseException:
            work.run.cancelled.set()
            raise
        finally:
            _stop_all(lanes, futures)
    return [future.result() for future in futures]


def _outcome(plan: Plan, tools: Tools, work: Work) -> Receipt | FactoryError:
    try:
        return produce(plan, tools)
    except FactoryError as error:
        if not work.run.cancelled.is_set():  # otherwise the error is a consequence of the cleanup
            work.events.emit("note", text=f"{plan.target.name}: {error.message}")
        return error


def _stop_all(lanes: Mapping[str, Lane], futures: Sequence[Future[Receipt | FactoryError]]) -> None:
    """Call `stop` of each lane repeatedly until all workers have ended, for at most a minute."""
    deadline = time.monotonic() + _STOP_S
    pending = list(futures)
    while pending and time.monotonic() < deadline:
        for lane in lanes.values():
            with suppress(FactoryError):
                lane.stop()
        _, rest = wait(pending, timeout=0.3)
        pending = list(rest)


def clear_dead(workspace: Workspace) -> None:
    """Remove the containers, processes and folders of runs whose process has died."""
    for name in dead_runs(workspace):
        sweep(Engine(), name)
        try:
            forget_run(workspace, name)
        except MissingError as error:  # its leftovers do not prevent a build; `clean` raises the error
            print(f"{error.message}; {error.hint}", file=sys.stderr)


def _open_screen(*, as_json: bool) -> AbstractContextManager[Callable[[Event], None]]:
    """Return the subscriber that prints the events of a run."""
    if as_json:
        # If stdout is closed, send SIGHUP as a closed terminal does, so that the build cleans up.
        return nullcontext(JsonLines(sys.stdout, on_lost=partial(signal.raise_signal, signal.SIGHUP)))
    if look(sys.stderr, os.environ).live:
        return LiveTree(sys.stderr, os.environ)
    return nullcontext(PlainLines(sys.stderr))


def _attempt(
    root: Path, run: Run, plan: Plan, outcome: Receipt | FactoryError, events: Sequence[Event]
) -> Attempt:
    if isinstance(outcome, Receipt):
        return attempt_of(outcome)
    return attempt_after(
        outcome, plan=plan, events=events, run=run.name, created=now(), commit=commit_of(root)
    )


def write_report(folder: Path, attempt: Attempt, events: Sequence[Event]) -> Path | None:
    """Write the HTML report of a run and return its path; None if writing fails after a failed run."""
    path = folder / f"report-{attempt.plan.target.name}.html"
    try:
        write_atomically(path, render(attempt, events, environment=_environment()))
    except OSError as error:
        if attempt.verdict == "ready":
            raise
        # Keep the error of the failed run, not the error of writing the report.
        print(f"the report was not written: {path}: {error.strerror}", file=sys.stderr)
        return None
    return path


def _environment() -> Mapping[str, str]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
