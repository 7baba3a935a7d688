"""Live view of a run in a terminal: one row per step with its time, current task and outcome.

Rows are computed here as plain values. rich draws them and is imported only when drawing starts.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from builder.events import Event
from builder.screen.steps import Board, Row
from builder.screen.text import STYLE_OF_OUTCOME, Look, cells, clip, duration, look, pad, roughly, size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

# Part of a line: (text, name of its style).
Span = tuple[str, str]
Line = list[Span]

_FRAMES = ("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\")
_FRAMES_PER_S = 8
_RICH_STYLES = {
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "work": "cyan",
    "dim": "dim",
    "bold": "bold",
}


class LiveTree:
    """Live view on a terminal; a context manager that restores the cursor even after an error.

    Drawing starts after `delay_s`, so that a run that only reuses layers neither flickers nor imports rich.
    """

    def __init__(
        self,
        stream: TextIO,
        environment: Mapping[str, str],
        *,
        delay_s: float = 0.4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._look = look(stream, environment)
        self._clock = clock
        self._board = Board()
        # Lock that the drawing thread holds while it reads `_board`; never held while calling into rich.
        self._lock = threading.RLock()
        # Lock that serializes start and stop of drawing: a stop during a start would leave the cursor hidden.
        self._opening = threading.Lock()
        self._live: Live | None = None
        self._closed = False
        self._timer = threading.Timer(delay_s, self._open)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._board.read(event)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        with self._lock:
            height = None if self._closed else options.size.height - 1
            lines = tree(
                self._board, now_s=self._clock(), look=self._look, width=options.max_width, height=height
            )
        for line in lines:
            spans = ((self._look.plain(text), _RICH_STYLES.get(style, "")) for text, style in line)
            yield Text.assemble(*spans, no_wrap=True, overflow="crop")

    def close(self) -> None:
        """Draw all rows a last time, restore the terminal and print the log of failed steps."""
        self._timer.cancel()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._board.stop(self._clock())
        with self._opening:
            if self._live:
                self._live.stop()
        for line in failures(self._board):
            text = "".join(self._look.paint(self._look.plain(span), style) for span, style in line)
            self._stream.write(text + "\n")
        self._stream.flush()

    def _open(self) -> None:
        from rich.console import Console
        from rich.live import Live

        with self._opening:
            if self._closed:
                return
            console = Console(
                file=self._stream, force_terminal=True, no_color=not self._look.colour, highlight=False
            )
            # stdout is not redirected because it carries the result; other lines on stderr go above the tree.
            self._live = Live(self, console=console, refresh_per_second=_FRAMES_PER_S, redirect_stdout=False)
            self._live.start()


def tree(board: Board, *, now_s: float, look: Look, width: int, height: int | None = None) -> list[Line]:
    """Return the lines to draw: all rows, or those that fit in `height`, running rows first."""
    running = len(board.running)
    done = len(board.rows) - running
    elapsed_s = now_s - board.started_s
    left_s = board.estimate_s - elapsed_s
    left = f", {roughly(left_s)} left" if running and left_s > 0 else ""
    lines = [_ends(board.command, duration_now(elapsed_s) + left, width, "bold")]
    notes = [[("! ", "warn"), (note, "")] for note in board.notes]
    if height is not None:
        notes = notes[-2:]
        room = height - len(lines) - len(notes) - 1
        shown = _fitting(tuple(board.rows.values()), room, grouped=len(board.targets) > 1)
    else:
        shown = tuple(board.rows.values())
    lines += _groups(shown, board, now_s=now_s, look=look, width=width)
    hidden = len(board.rows) - len(shown)
    facts = [f"{running} running" if running else "", f"{done} done", f"{hidden} not shown" if hidden else ""]
    if running or hidden:
        lines.append([(" · ".join(fact for fact in facts if fact), "dim")])
    return [_clipped(line, width) for line in lines + notes]


def failures(board: Board) -> list[Line]:
    """Return the full reason and the last log lines of each failed step."""
    lines: list[Line] = []
    for row in board.failed:
        tail = board.tail(row.step)
        if tail:
            lines += [[], [(f"{row.full_title}: ", "bold"), (row.reason or "failed", "bad")]]
            lines += [[("  │ ", "bad"), (line, "")] for line in tail]
    return lines


def duration_now(seconds: float) -> str:
    """Format the time of a running step; never in milliseconds, which would flicker."""
    return duration(seconds) if seconds >= 1 else f"{max(seconds, 0):.1f} s"


def _fitting(rows: Sequence[Row], room: int, *, grouped: bool) -> tuple[Row, ...]:
    """Select the rows that fit, by priority: running, failed, most recently finished; keep their order."""
    wanted = sorted(rows, key=lambda row: (not row.running, row.outcome != "failed", -row.ended_s))
    chosen: set[str] = set()
    headings: set[str] = set()
    for row in wanted:
        cost = 1 + (grouped and row.target not in headings)
        if cost > room:
            break
        room -= cost
        chosen.add(row.step)
        headings.add(row.target)
    return tuple(row for row in rows if row.step in chosen)


def _groups(rows: Sequence[Row], board: Board, *, now_s: float, look: Look, width: int) -> list[Line]:
    """Return the lines to draw for these rows, with a heading per target if there are several targets."""
    titles = max((cells(row.title) for row in board.rows.values()), default=0)
    title_width = min(titles, max(width * 3 // 10, 12))
    grouped = len(board.targets) > 1
    lines: list[Line] = []
    for target in dict.fromkeys(row.target for row in rows):
        if grouped:
            lines.append([(target or "shared", "bold")])
        for row in rows:
            if row.target == target:
                indent = "  " if grouped else ""
                line = _row(row, now_s=now_s, look=look, title_width=title_width)
                lines.append([(indent, ""), *line])
    return lines


def _row(row: Row, *, now_s: float, look: Look, title_width: int) -> Line:
    seconds = row.seconds(now_s)
    if row.running:
        frames = _FRAMES[0 if look.unicode else 1]
        symbol, style = frames[int(now_s * _FRAMES_PER_S) % len(frames)], "work"
        took, detail = duration_now(seconds), [(f"{row.progress} ".lstrip(), "work"), (row.task, "")]
    else:
        symbol, style = look.symbol(row.outcome), STYLE_OF_OUTCOME.get(row.outcome, "")
        took, detail = duration(seconds) if seconds else "", [(row.outcome, style)]
        if row.reason:
            detail.append((f" · {row.reason}", "bad" if row.outcome == "failed" else "dim"))
    left: Line = [
        (f"{symbol} ", style),
        (pad(row.title, title_width), "bold" if row.running else ""),
        (pad(took, 11, right=True), ""),
        (pad(size(row.size_bytes) if row.size_bytes else "", 8, right=True) + "  ", "dim"),
    ]
    return left + detail


def _clipped(line: Line, width: int) -> Line:
    kept: Line = []
    for text, style in line:
        if width > 0:
            kept.append((clip(text, width), style))
        width -= cells(text)
    return kept


def _ends(left: str, right: str, width: int, style: str) -> Line:
    """Return a line with `left` at its left edge and `right` at its right edge."""
    return [(pad(left, max(width - cells(right) - 1, 0)), style), (f" {right}", "dim")]
