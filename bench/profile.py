"""Where the time of a cold build goes: phases of each layer, from the run's events and timed engine calls."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.traced import CALLS, RUN

_START, _TASKS, _BETWEEN, _END = "start Ansible", "tasks", "between tasks", "make files independent of time"
_REST = "all else"
# Phases of a layer in the order of the table; the run of the layer's container has four of them.
PHASES = tuple(
    dict.fromkeys(
        phase
        for _, _, title in CALLS
        for phase in ((_START, _TASKS, _BETWEEN, _END) if title == RUN else (title,))
    )
)
Event = Mapping[str, Any]


def phases(events: Sequence[Event], spans: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the seconds of each phase, by step of the build."""
    found, spans = {}, list(spans)
    for start in (event for event in events if event["name"] == "step.start"):
        own = [event for event in events if event["step"] == start["step"]]
        begun, ended = own[0]["time_s"], own[-1]["time_s"]
        inside = [span for span in spans if begun <= span["start"] and span["end"] <= ended]
        runs = [span for span in inside if span["title"] == RUN]
        threads = {span["thread"] for span in runs}
        seconds: dict[str, float] = {}
        for span in inside:
            if span["thread"] in threads and span["title"] != RUN:
                seconds[span["title"]] = seconds.get(span["title"], 0.0) + span["end"] - span["start"]
        for span in runs:
            seconds |= _of_play(own, span["start"], span["end"])
        seconds[_REST] = ended - begun - sum(seconds.values())
        found[start["step"].partition("/")[2]] = seconds
    return found


def _of_play(events: Sequence[Event], start: float, end: float) -> dict[str, float]:
    """Return the seconds of the four phases of a container that ran from `start` to `end`."""
    tasks = list(_tasks(event for event in events if start <= event["time_s"] <= end))
    if not tasks:
        return {_START: end - start}
    busy = sum(seconds for _, _, seconds in tasks)
    (_, first, _), (_, last, length) = tasks[0], tasks[-1]
    between = last + length - first - busy
    return {_START: first - start, _TASKS: busy, _BETWEEN: between, _END: end - last - length}


def _tasks(events: Iterable[Event]) -> Iterator[tuple[str, float, float]]:
    """Yield name, start and seconds of each task; the log line that begins with its name ends the task."""
    name, began = "", 0.0
    for event in events:
        if event["name"] == "step.task":
            name, began = event["text"], event["time_s"]
        elif event["name"] == "step.log" and name and event["text"].startswith(f"{name}: "):
            yield name, began, event["time_s"] - began
            name = ""


def rows(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Return a table with a row for each phase and a column for each step that ran a container."""
    steps = [step for step, seconds in found.items() if _TASKS in seconds]
    table = [["phase of a layer, seconds", *steps, "all"]]
    for phase in (*PHASES, _REST):
        numbers = [found[step].get(phase, 0.0) for step in steps]
        if sum(numbers) >= 0.005:
            table.append([phase, *(f"{number:.2f}" for number in (*numbers, sum(numbers)))])
    totals = [sum(found[step].values()) for step in steps]
    return [*table, ["sum", *(f"{number:.2f}" for number in (*totals, sum(totals)))]]


def task_rows(events: Sequence[Event], most: int = 12) -> list[list[str]]:
    """Return a table of the tasks that took longest."""
    longest = sorted(_tasks(events), key=lambda task: -task[2])[:most]
    return [["task", "seconds"], *([name, f"{seconds:.2f}"] for name, _, seconds in longest)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
