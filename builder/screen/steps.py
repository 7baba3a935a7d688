"""Collect the events of a run into one row per step, for all screens that show state."""

from collections import deque
from dataclasses import replace

from builder.events import Event, Scalar
from builder.screen.text import clean, size
from builder.values import dataclass

TAIL_LINES = 15
# Outcomes that usually take only a look-up; a duration below _BRIEF_S is shown as 0 for them.
_QUICK = ("reused", "present", "skipped")
_BRIEF_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """State of a step; `outcome` is "" while it runs."""

    step: str
    title: str
    target: str
    key: str
    started_s: float
    task: str = ""
    ended_s: float = 0.0
    took_s: float = 0.0
    outcome: str = ""
    reason: str = ""
    size_bytes: int = 0
    done: int = 0
    total: int = 0  # 0: unknown
    unit: str = ""  # of `done`: checks or bytes

    @property
    def progress(self) -> str:
        """Return the progress of the step, such as "43/117 checks" or "120 MB of 427 MB"; "" if unknown."""
        if not self.unit or not self.total:
            return ""
        if self.unit == "bytes":
            return f"{size(self.done)} of {size(self.total)}"
        return f"{self.done}/{self.total} {self.unit}"

    @property
    def running(self) -> bool:
        return not self.outcome

    @property
    def full_title(self) -> str:
        """Return the title prefixed with its target, for lists with rows of several targets."""
        return f"{self.target}: {self.title}" if self.target and self.target not in self.title else self.title

    def seconds(self, now_s: float) -> float:
        """Return the reported duration of an ended step, or the time since the start of a running step."""
        return max(now_s - self.started_s, 0.0) if self.running else self.took_s


class Board:
    """State of a run: its rows in order of start, and the last log lines of each step."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.notes: list[str] = []
        self.command = ""
        self.started_s = 0.0
        self.last_s = 0.0
        self.estimate_s = 0.0  # duration of the run as far as earlier runs tell; 0: unknown
        self.ok: bool | None = None
        self._tails: dict[str, deque[str]] = {}

    def read(self, event: Event) -> None:
        if not self.started_s:
            self.started_s = event.time_s
        self.last_s = max(self.last_s, event.time_s)
        reader = _READERS.get(event.name)
        if reader:
            reader(self, event)

    def tail(self, step: str) -> tuple[str, ...]:
        return tuple(self._tails.get(step, ()))

    @property
    def running(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows.values() if row.running)

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows.values() if row.outcome == "failed")

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.target for row in self.rows.values()))

    def stop(self, now_s: float) -> None:
        """Mark running steps as stopped; call when no more events will come."""
        for row in self.running:
            self.rows[row.step] = replace(row, outcome="stopped", ended_s=now_s, took_s=row.seconds(now_s))

    def keep(self, target: str) -> None:
        """Remove the steps of other targets, and limit the time range to the remaining steps."""
        own = {step: row for step, row in self.rows.items() if row.target in ("", target)}
        if own and len(own) < len(self.rows):
            self.rows = own
            self.started_s = min(row.started_s for row in own.values())
            self.last_s = max(row.ended_s for row in own.values())

    def _run_start(self, event: Event) -> None:
        self.command = clean(event.text)
        self.started_s = event.time_s

    def _run_end(self, event: Event) -> None:
        self.ok = event.fields.get("ok") is True

    def _run_estimate(self, event: Event) -> None:
        self.estimate_s = _number(event.fields.get("seconds"))

    def _note(self, event: Event) -> None:
        self.notes.append(clean(event.text))

    def _step_start(self, event: Event) -> None:
        self.rows[event.step] = Row(
            step=event.step,
            title=clean(event.text) or event.step,
            target=_text(event.fields.get("target")),
            key=_text(event.fields.get("key")),
            started_s=event.time_s,
        )
        self._tails[event.step] = deque(maxlen=TAIL_LINES)

    def _step_task(self, event: Event) -> None:
        row = replace(self._row(event), task=clean(event.text))
        # A byte count belongs to one task: reset it when the next task starts.
        self.rows[event.step] = replace(row, done=0, total=0) if row.unit == "bytes" else row

    def _step_progress(self, event: Event) -> None:
        done, total = (int(_number(event.fields.get(name))) for name in ("done", "total"))
        unit = _text(event.fields.get("unit"))
        self.rows[event.step] = replace(self._row(event), done=done, total=total, unit=unit)

    def _step_log(self, event: Event) -> None:
        tail = self._tails.setdefault(event.step, deque(maxlen=TAIL_LINES))
        tail.extend(clean(line) for line in event.text.split("\n"))

    def _step_end(self, event: Event) -> None:
        row = self._row(event)
        if event.fields.get("explained"):
            self._tails.pop(event.step, None)
        seconds, outcome = event.fields.get("seconds"), _text(event.fields.get("outcome")) or "passed"
        took_s = event.time_s - row.started_s if seconds is None else _number(seconds)
        self.rows[event.step] = replace(
            row,
            ended_s=event.time_s,
            took_s=0.0 if outcome in _QUICK and took_s < _BRIEF_S else took_s,
            outcome=outcome,
            reason=clean(event.text),
            size_bytes=int(_number(event.fields.get("size_bytes"))),
        )

    def _row(self, event: Event) -> Row:
        """Return the row of an event's step, or a new row if the step has no start event."""
        known = self.rows.get(event.step)
        return known or Row(
            step=event.step,
            title=event.step or "run",
            target=_text(event.fields.get("target")),
            key=_text(event.fields.get("key")),
            started_s=event.time_s - _number(event.fields.get("seconds")),
        )


_READERS = {
    "run.start": Board._run_start,
    "run.end": Board._run_end,
    "run.estimate": Board._run_estimate,
    "note": Board._note,
    "step.start": Board._step_start,
    "step.task": Board._step_task,
    "step.progress": Board._step_progress,
    "step.log": Board._step_log,
    "step.end": Board._step_end,
}


def _text(value: Scalar) -> str:
    return "" if value is None else clean(str(value))


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
