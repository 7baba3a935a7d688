"""Plain-text output for pipes and CI: a line for the start, each task and the end of every step."""

from typing import TextIO

from builder.events import Event
from builder.screen.steps import Board
from builder.screen.text import clean, clock, duration, roughly, size

_LARGE_BYTES = 10_000_000  # transfers of less are not worth a line


class PlainLines:
    """Writer of plain-text lines; each line names its step, because parallel steps interleave."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._board = Board()
        self._quarters: dict[str, int] = {}  # of the bytes of each step
        self._writers = {
            "run.start": self._run_start,
            "run.estimate": self._run_estimate,
            "run.end": self._run_end,
            "note": self._note,
            "step.start": self._step_start,
            "step.task": self._step_task,
            "step.progress": self._step_progress,
            "step.end": self._step_end,
        }

    def __call__(self, event: Event) -> None:
        self._board.read(event)
        writer = self._writers.get(event.name)
        if writer:
            writer(event)

    def _run_start(self, event: Event) -> None:
        self._line(event, "run", clean(event.text))

    def _run_end(self, event: Event) -> None:
        seconds = event.fields.get("seconds")
        took = float(seconds) if isinstance(seconds, int | float) else event.time_s - self._board.started_s
        word = "done" if self._board.ok else clean(event.text) or "failed"
        self._line(event, word, f"run, {duration(took)}")

    def _run_estimate(self, event: Event) -> None:
        self._line(event, "", f"  {roughly(self._board.estimate_s)}, as earlier runs took")

    def _note(self, event: Event) -> None:
        self._line(event, "note", clean(event.text))

    def _step_start(self, event: Event) -> None:
        self._line(event, "start", self._board.rows[event.step].full_title)

    def _step_task(self, event: Event) -> None:
        row = self._board.rows[event.step]
        progress = f" ({row.progress})" if row.progress else ""
        self._line(event, "", f"  {row.title}: {clean(event.text)}{progress}")

    def _step_progress(self, event: Event) -> None:
        """Write a line for each quarter of a large transfer; checks have a line per task instead."""
        row = self._board.rows[event.step]
        if row.unit != "bytes" or row.total < _LARGE_BYTES:
            return
        quarter, last = 4 * row.done // row.total, self._quarters.get(event.step, 0)
        self._quarters[event.step] = quarter
        if quarter and quarter != last:  # fewer than before: the next file of a task
            self._line(event, "", f"  {row.title}: {row.progress}")

    def _step_end(self, event: Event) -> None:
        row = self._board.rows[event.step]
        facts = [duration(row.took_s) if row.took_s else "", size(row.size_bytes) if row.size_bytes else ""]
        measured = ", ".join(fact for fact in facts if fact)
        name = f"{row.full_title} ({measured})" if measured else row.full_title
        self._line(event, row.outcome, f"{name}: {row.reason}" if row.reason else name)
        if row.outcome == "failed":
            for line in self._board.tail(event.step):
                self._line(event, "", f"  | {line}")

    def _line(self, event: Event, word: str, text: str) -> None:
        elapsed = clock(event.time_s - self._board.started_s)
        # One write per line, so that parallel builds can share a log file without mixing parts of lines.
        self._stream.write(f"{elapsed:>7}  {word:<8}{text}".rstrip() + "\n")
        self._stream.flush()
