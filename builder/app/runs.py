"""The runs of a checkout, read from their folders in out/runs: what each did, how it ended, and its log."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.adapters.host.workspace import Workspace, is_running
from builder.errors import UsageError
from builder.wait import until

_TAIL_BYTES = 1 << 16  # of an events file; its last line says how the run ended
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRun:
    """A run with a log; `state` is running, done, failed, stopped, or killed (no final event)."""

    name: str
    command: str
    targets: tuple[str, ...]
    started: str
    state: str
    seconds: float


def all_runs(workspace: Workspace) -> list[PastRun]:
    """Return the runs that have a log, newest first."""
    logs = sorted((workspace.out / "runs").glob("*/log.txt"), reverse=True)
    return [_read(workspace, path.parent) for path in logs]


def find_run(workspace: Workspace, text: str) -> PastRun:
    """Return the run named `text`, or the newest run with `text` in its name, such as a target's name."""
    found = all_runs(workspace)
    words = re.compile(rf"(?:^|-){re.escape(text)}(?:-|$)" if text else "")
    for run in [run for run in found if run.name == text] or [run for run in found if words.search(run.name)]:
        return run
    noun = f"no run '{text}'" if text else "no run yet"
    raise UsageError(noun, hint="builder logs" if found else "builder build TARGET")


def log_lines(workspace: Workspace, run: str, *, follow: bool = False) -> Iterator[str]:
    """Yield the lines of a run's log; with `follow`, wait for new lines until the run ends."""
    with (workspace.out / "runs" / run / "log.txt").open("rb") as file:
        while True:
            is_over = not (follow and is_running(workspace, run))  # asked before the last lines are read
            while line := file.readline():
                yield line.decode("utf-8", "replace").rstrip("\n")
            if is_over:
                return
            until(lambda: file.peek(1) or not is_running(workspace, run), timeout_s=math.inf, every_s=_POLL_S)


def _read(workspace: Workspace, folder: Path) -> PastRun:
    first, last = _ends(folder / "events.ndjson")
    fields = first.get("fields", {})
    started = float(first.get("time_s") or folder.stat().st_mtime)
    state = "running" if is_running(workspace, folder.name) else "killed"
    if last.get("name") == "run.end":
        state = str(last.get("text") or ("done" if last["fields"].get("ok") else "failed"))
    return PastRun(
        name=folder.name,
        command=str(first.get("text", "")),
        targets=tuple(filter(None, str(fields.get("targets", "")).split(","))),
        started=datetime.fromtimestamp(started, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        state=state,
        seconds=max(float(last.get("time_s") or started) - started, 0.0),
    )


def _ends(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first and the last event of a run; {} for an event that cannot be read."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            last = (file.read().splitlines() or [b""])[-1]
    except FileNotFoundError:
        return {}, {}
    return _event(first), _event(last)


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and isinstance(event.get("fields"), dict) else {}
