"""The one door to other programs: argument lists, own process groups, bounded time, no child left behind."""

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from builder.errors import BuildError, Interrupted, MissingError
from builder.wait import until

_GRACE_S = 5.0
_POLL_S = 0.1
# How a group is ended: which signals, and how long each has to take effect.
_ENDING = ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S))
_STRAYS_ENDING = ((signal.SIGINT, 60.0), *_ENDING)

OnLine = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """How a program ended; `tail` holds the last lines of what it said."""

    code: int
    output: str

    @property
    def tail(self) -> str:
        return "\n".join(self.output.splitlines()[-20:])


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cancelled: threading.Event | None = None,
    on_line: OnLine | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ending: Sequence[tuple[signal.Signals, float]] = _ENDING,
) -> Finished:
    """Runs a program to its end, both outputs joined; never raises for its exit code.

    The program is ended, group and all, when `cancelled` is set or the time is over: by the signals of
    `ending`, each with the seconds that it has before the next.
    """
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
            env=dict(env) if env is not None else None,
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise MissingError(f"no program '{argv[0]}' here", hint="builder doctor") from error
    lines: list[str] = []
    assert child.stdout is not None
    reader = threading.Thread(target=_read, args=(child.stdout, lines, on_line), daemon=True)
    reader.start()
    try:
        _wait(child, argv, timeout_s=timeout_s, cancelled=cancelled)
    finally:
        _end_group(child, ending)
        reader.join(_GRACE_S)
        child.stdout.close()
    return Finished(code=child.returncode, output="\n".join(lines))


def _read(stream: IO[str], lines: list[str], on_line: OnLine | None) -> None:
    with suppress(ValueError):  # closed under us after the group has been ended
        for line in stream:
            lines.append(line.rstrip("\n"))
            if on_line:
                on_line(lines[-1])


def _wait(
    child: subprocess.Popen[str],
    argv: Sequence[str],
    *,
    timeout_s: float,
    cancelled: threading.Event | None,
) -> None:
    waited = 0.0
    while True:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
            return
        waited += _POLL_S
        if cancelled is not None and cancelled.is_set():
            raise Interrupted("interrupted")
        if waited >= timeout_s:
            raise BuildError(f"no end after {timeout_s:.0f} s: {shlex.join(argv)}", hint="run it by hand")


def _end_group(child: subprocess.Popen[str], ending: Sequence[tuple[signal.Signals, float]]) -> None:
    """Ends whatever is left of the child's process group, gently first."""
    for number, grace_s in ending:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        if child.poll() is not None:
            continue
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)


def end_strays(mark: str) -> None:
    """Ends what still works for somebody who was killed: the groups of processes with `mark` in their words.

    Interrupted first, as by a terminal: who has something to put in order does it then.
    """
    for group in {found for found, words in _processes() if mark in words} - {os.getpgrp()}:
        for number, grace_s in _STRAYS_ENDING:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            if until(partial(_is_over, group), timeout_s=grace_s, every_s=_POLL_S):
                break


def _is_over(group: int) -> bool:
    return group not in {found for found, _ in _processes()}


def _processes() -> Iterator[tuple[int, str]]:
    """(group, command line) of everything that runs here; those that have ended have no words any more."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if words := (path / "cmdline").read_bytes():
                yield os.getpgid(int(path.name)), words.replace(b"\0", b" ").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Service:
    """A program that outlives this process."""

    child: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.child.pid

    def runs(self) -> bool:
        return self.child.poll() is None

    def end(self) -> None:
        """End the program and wait for its exit."""
        for number, grace_s in _ENDING:
            if self.runs():
                self.child.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self.child.wait(grace_s)


def start_detached(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> Service:
    """Start a service that outlives this process, its output appended to `log`."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=dict(env) if env is not None else None,
        )
    return Service(child)
