"""The only module that starts other programs: argument lists, process groups, bounded time, no child left.

`run` reads a program's output in the caller's thread, so an error of the listener, a cancellation and the
time limit all end the program in the same way. It knows nothing of what the programs do.
"""

import codecs
import io
import os
import selectors
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

from builder.errors import BuildError, MissingError
from builder.wait import until

_GRACE_S = 5.0
_POLL_S = 0.1
_CHUNK_BYTES = 65536
# How a process group is ended: each signal, and the seconds before the next.
_ENDING = ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S))
# An orphan of a killed run may have an instance to terminate first.
_ORPHANS_ENDING = ((signal.SIGINT, 60.0), *_ENDING)
# Where programs, the user's settings and temporary files are; nothing that changes what a program does.
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "TMPDIR")

OnLine = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Exit code and output of a program; `command` is a line for a shell that runs it again."""

    code: int
    output: str
    command: str

    @property
    def tail(self) -> str:
        return "\n".join(self.output.splitlines()[-20:])

    @property
    def details(self) -> str:
        """The last lines of the output and the command, for an error."""
        return f"{self.tail}\n\n$ {self.command}".lstrip()


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a program that must not depend on the caller's: `_KEPT`, UTF-8, and `more`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def inherited_environment(**more: str) -> dict[str, str]:
    """The whole environment of the builder, for programs that read the user's settings or proxies in it."""
    return {**os.environ, **more}


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

    Without `env` the program gets a clean environment. When `cancelled` is set, the time is over or `on_line`
    raises, the program is ended, group and all, by the signals of `ending`, each with the seconds before the
    next; its output is read meanwhile. The first error is raised when the program has ended.
    """
    command = shlex.join(argv) if cwd is None else f"cd {shlex.quote(str(cwd))} && {shlex.join(argv)}"
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=clean_environment() if env is None else dict(env),
            cwd=cwd,
        )
    except OSError as error:
        raise _cannot_start(argv[0], error) from error
    assert child.stdout is not None
    with _Output(child.stdout, on_line) as output:
        try:
            _wait(child, output, command, timeout_s=timeout_s, cancelled=cancelled)
        finally:
            _end_group(child, output, ending)
        if output.error is not None:
            raise output.error
    return Finished(code=child.returncode, output="\n".join(output.lines), command=command)


def _cannot_start(program: str, error: OSError) -> MissingError:
    """Names what is missing: the program, or the folder to run it in."""
    if isinstance(error, FileNotFoundError) and error.filename == program:
        return MissingError(f"no program '{program}' here", hint="builder doctor")
    return MissingError(
        f"cannot start '{program}': {error.strerror}: {error.filename}", hint="builder doctor"
    )


class _Output:
    """Reads the output of a child line by line, never waiting longer than told.

    After the first exception of the listener, kept in `error`, lines are only collected.
    """

    def __init__(self, stream: IO[bytes], on_line: OnLine | None) -> None:
        self.lines: list[str] = []
        self.error: BaseException | None = None
        self.is_over = False
        self._stream = stream
        self._on_line = on_line
        self._decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8")("replace"), translate=True
        )
        self._partial = ""
        self._selector = selectors.DefaultSelector()
        self._selector.register(stream, selectors.EVENT_READ)

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        self._stream.close()

    def read(self, timeout_s: float) -> None:
        """Takes what the child has written, waiting for it until the time limit."""
        if self.is_over or not self._selector.select(timeout_s):
            return
        chunk = os.read(self._stream.fileno(), _CHUNK_BYTES)
        self.is_over = not chunk
        *complete, self._partial = (self._partial + self._decoder.decode(chunk, self.is_over)).split("\n")
        if self.is_over and self._partial:
            complete.append(self._partial)
        self.lines += complete
        for line in complete:
            self._tell(line)

    def _tell(self, line: str) -> None:
        if self._on_line is None or self.error is not None:
            return
        try:
            self._on_line(line)
        except BaseException as error:  # noqa: BLE001 (`run` raises it when the child has ended)
            self.error = error


def _wait(
    child: subprocess.Popen[bytes],
    output: _Output,
    command: str,
    *,
    timeout_s: float,
    cancelled: threading.Event | None,
) -> None:
    """Returns when the child has ended or its listener has failed."""

    def is_done() -> bool:
        return _has_ended(child, output) or output.error is not None

    if not until(is_done, timeout_s=timeout_s, every_s=0, cancelled=cancelled):
        raise BuildError(f"no end after {timeout_s:.0f} s: {command}", hint="run it by hand")


def _has_ended(child: subprocess.Popen[bytes], output: _Output) -> bool:
    """Reads output for a moment, or waits for the end of a child that has closed it."""
    if output.is_over:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
    else:
        output.read(_POLL_S)
    return child.poll() is not None


def _end_group(
    child: subprocess.Popen[bytes], output: _Output, ending: Sequence[tuple[signal.Signals, float]]
) -> None:
    """Ends whatever is left of the child's process group, gently first, and reads its last words.

    A process that has left the group may keep the output open: it is not waited for longer than a moment.
    """
    for number, grace_s in ending:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        if child.poll() is None:
            until(partial(_has_ended, child, output), timeout_s=grace_s, every_s=0)

    def is_read() -> bool:
        output.read(_POLL_S)
        return output.is_over

    until(is_read, timeout_s=_GRACE_S, every_s=0)


def end_orphans(mark: str) -> None:
    """Ends the process groups that have `mark` in a command line: what a killed run had started.

    They are interrupted first, as by a terminal, so that they can clean up.
    """
    for group in {found for found, words in _processes() if mark in words} - {os.getpgrp()}:
        for number, grace_s in _ORPHANS_ENDING:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            if until(partial(_is_over, group), timeout_s=grace_s, every_s=_POLL_S):
                break


def _is_over(group: int) -> bool:
    return group not in {found for found, _ in _processes()}


def _processes() -> Iterator[tuple[int, str]]:
    """(group, command line) of every process; one that has ended has no command line any more."""
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
    """Start a service that outlives this process, its output appended to `log`.

    Without `env` it inherits the environment: it is another part of the builder.
    """
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
