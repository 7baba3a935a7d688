"""Run subprocesses: argument lists only, each in its own process group, with a timeout and no orphans.

This is the only module that starts programs. `run` reads the output in the caller's thread, so that a
listener error, a cancellation and a timeout all end the program in the same way.
Knows nothing about the purpose of programs.
"""

import codecs
import io
import os
import selectors
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from builder.errors import BuildError, MissingError
from builder.lines import Lines
from builder.values import dataclass
from builder.wait import until

_GRACE_S = 5.0
_POLL_S = 0.1
_CHUNK_BYTES = 65536
_KEPT_CHARACTERS = 8 << 20
# Signals that end a process group, each with the seconds to wait before the next.
_ENDING = ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S))
# An orphan of a killed run may need time to terminate its EC2 instance.
_ORPHANS_ENDING = ((signal.SIGINT, 60.0), *_ENDING)
# Variables that locate programs, user settings and temporary files, but do not change a program's behaviour.
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "TMPDIR")

_RUN = "IMAGE_FACTORY_RUN"
_marks: dict[str, str] = {}

OnLine = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Exit code and output of a program; `command` is the shell command line that runs it again.

    If the program has a listener, `output` has only the last lines.
    """

    code: int
    output: str
    command: str

    @property
    def tail(self) -> str:
        return "\n".join(self.output.splitlines()[-20:])

    @property
    def details(self) -> str:
        """The last lines of the output and the command line, for the details of an error."""
        return f"{self.tail}\n\n$ {self.command}".lstrip()


def clean_environment(**more: str) -> dict[str, str]:
    """Return a minimal environment, independent of the caller's: `_KEPT`, a UTF-8 locale, and `more`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def inherited_environment(**more: str) -> dict[str, str]:
    """Return the builder's environment and `more`, for programs that need the user's settings or proxies."""
    return {**os.environ, **more}


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cancelled: threading.Event | None = None,
    on_line: OnLine | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: Path | None = None,
    ending: Sequence[tuple[signal.Signals, float]] = _ENDING,
) -> Finished:
    """Run a program to its end, with stdout and stderr merged; never raise for its exit code.

    Without `env` the program gets a clean environment. If `cancelled` is set, the timeout expires or
    `on_line` raises, the signals of `ending` end its process group, each followed by a grace period in
    seconds, while output is still read. The first error is raised once the program has ended.
    """
    command = shlex.join(argv) if cwd is None else f"cd {shlex.quote(str(cwd))} && {shlex.join(argv)}"
    try:
        with (stdin or Path(os.devnull)).open("rb") as source:
            child = subprocess.Popen(
                list(argv),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**(clean_environment() if env is None else env), **_marks},
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
    """Return an error that names the missing program or working directory."""
    if isinstance(error, FileNotFoundError) and error.filename == program:
        return MissingError(f"program '{program}' not found", hint="builder doctor")
    return MissingError(
        f"cannot start '{program}': {error.strerror}: {error.filename}", hint="builder doctor"
    )


class _Output:
    """Line reader for the output of a child process.

    The first exception of the listener is kept in `error`; after it, lines are collected but not passed on.
    """

    def __init__(self, stream: IO[bytes], on_line: OnLine | None) -> None:
        self.lines: deque[str] = deque()
        self.error: BaseException | None = None
        self.is_over = False
        self._stream = stream
        self._on_line = on_line
        self._decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8")("replace"), translate=True
        )
        self._splitter = Lines()
        self._kept = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(stream, selectors.EVENT_READ)

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        self._stream.close()

    def read(self, timeout_s: float) -> None:
        """Read available output, waiting at most `timeout_s` for it."""
        if self.is_over or not self._selector.select(timeout_s):
            return
        chunk = os.read(self._stream.fileno(), _CHUNK_BYTES)
        self.is_over = not chunk
        complete = self._splitter.add(self._decoder.decode(chunk, self.is_over))
        if self.is_over:
            complete += self._splitter.end()
        for line in complete:
            self._keep(line)
            self._notify(line)

    def _keep(self, line: str) -> None:
        """Keep the last lines; without a listener, too much output is an error, since lines would be lost."""
        self.lines.append(line)
        self._kept += len(line) + 1
        while self._kept > _KEPT_CHARACTERS and len(self.lines) > 1:
            self._kept -= len(self.lines.popleft()) + 1
            if self._on_line is None and self.error is None:
                self.error = BuildError(
                    f"a program printed more than {_KEPT_CHARACTERS >> 20} MiB; its last line: {line[:200]}",
                    hint="run the command by hand to see its output",
                )

    def _notify(self, line: str) -> None:
        if self._on_line is None or self.error is not None:
            return
        try:
            self._on_line(line)
        except BaseException as error:  # noqa: BLE001 (`run` raises it once the child has ended)
            self.error = error


def _wait(
    child: subprocess.Popen[bytes],
    output: _Output,
    command: str,
    *,
    timeout_s: float,
    cancelled: threading.Event | None,
) -> None:
    """Wait until the child has ended or its listener has raised; raise BuildError on timeout."""

    def is_done() -> bool:
        return _has_ended(child, output) or output.error is not None

    if not until(is_done, timeout_s=timeout_s, every_s=0, cancelled=cancelled):
        raise BuildError(
            f"timed out after {timeout_s:.0f} s: {command}",
            hint="run the command by hand to see where it hangs",
        )


def _has_ended(child: subprocess.Popen[bytes], output: _Output) -> bool:
    """Read output, or wait if the output is closed, for up to `_POLL_S`; return True if the child ended."""
    if output.is_over:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
    else:
        output.read(_POLL_S)
    return child.poll() is not None


def _end_group(
    child: subprocess.Popen[bytes], output: _Output, ending: Sequence[tuple[signal.Signals, float]]
) -> None:
    """Send the signals of `ending` to the child's process group and read the remaining output.

    A process that has left the group may keep the output open, so reading stops after `_GRACE_S`.
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


@contextmanager
def marked_children(run: str) -> Iterator[None]:
    """Set a variable in the environment of all programs that `run` starts in the block."""
    _marks[_RUN] = run
    try:
        yield
    finally:
        _marks.pop(_RUN, None)


def end_orphans(run: str) -> None:
    """End the process groups left by a killed run, recognized by the variable of `marked_children`.

    Command lines are no proof: another program may read a file of the run. SIGINT comes first, as from a
    terminal, so that the processes can clean up.
    """
    mark = f"{_RUN}={run}".encode()
    for group in {found for found, variables in _processes() if mark in variables} - {os.getpgrp()}:
        for number, grace_s in _ORPHANS_ENDING:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            if until(partial(_is_over, group), timeout_s=grace_s, every_s=_POLL_S):
                break


def _is_over(group: int) -> bool:
    return group not in {found for found, _ in _processes()}


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    """Yield (process group, environment) of each process whose environment this user can read."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variables := (path / "environ").read_bytes():
                yield os.getpgid(int(path.name)), variables.split(b"\0")


@dataclass(frozen=True, slots=True)
class Service:
    """Program that runs in parallel to this process."""

    child: subprocess.Popen[bytes]

    @property
    def input(self) -> IO[bytes]:
        """The program's stdin, if it was started with `start_piped`."""
        assert self.child.stdin is not None
        return self.child.stdin

    @property
    def output(self) -> IO[bytes]:
        """The program's stdout, if it was started with `start_piped`."""
        assert self.child.stdout is not None
        return self.child.stdout

    @property
    def errors(self) -> IO[bytes]:
        """The program's stderr, if it was started with `start_piped` and `pipe_stderr`."""
        assert self.child.stderr is not None
        return self.child.stderr

    @property
    def pid(self) -> int:
        return self.child.pid

    def runs(self) -> bool:
        return self.child.poll() is None

    def end(self) -> None:
        """End the program with SIGTERM, then SIGKILL, and wait for its exit."""
        for number, grace_s in _ENDING:
            if self.runs():
                self.child.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self.child.wait(grace_s)


def start_detached(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> Service:
    """Start a program that outlives this process, with its output appended to `log`.

    Without `env`, the program inherits the environment, because it is a part of the builder.
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


def start_piped(argv: Sequence[str], *, pipe_stderr: bool = False) -> Service:
    """Start a program that inherits the environment, with pipes to this process; it may inherit stderr."""
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if pipe_stderr else None,
            start_new_session=True,
        )
    except OSError as error:
        raise _cannot_start(argv[0], error) from error
    return Service(child)
