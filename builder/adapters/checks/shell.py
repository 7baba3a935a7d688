"""Pytest plugin that sends all commands of checks to one long-lived shell per machine.

It replaces two backends of testinfra, which start `docker exec` or `ssh` for every command; that takes longer
than most commands. The shell runs every command as `/bin/sh -c COMMAND` without stdin, so that each one still
gets its own process, environment and folder.
"""

import atexit
import os
import secrets
import selectors
import shlex
from collections.abc import Sequence
from typing import IO, Any

from testinfra.backend import BACKENDS, base

from builder.adapters.host import process
from builder.errors import CheckError
from builder.wait import until

_TIMEOUT_S = 600.0
_LIMIT_BYTES = 128 << 20
_POLL_S = 0.1
_WRITE_BYTES = 4096  # a pipe that is ready takes at least as many without blocking
_READ_BYTES = 1 << 16
_TAIL_BYTES = 1000
# Descriptor 3 is the stderr of commands. The shell's own stderr is dropped, because some shells print there
# which signal ended a command. bash counts nested shells in SHLVL.
_OPENING = b"exec 3>&2 2>/dev/null; unset SHLVL\n"
_REQUEST = (
    b"echo '%(mark)b('; echo '%(mark)b(' >&3; (exec /bin/sh -c %(command)b </dev/null 2>&3 3>&-);"
    b" echo '%(mark)b)'$?; echo '%(mark)b)'0 >&3\n"
)


def pytest_configure() -> None:
    BACKENDS.update(docker=f"{__name__}.ContainerBackend", ssh=f"{__name__}.SshBackend")


class _Backend(base.BaseBackend):  # type: ignore[misc]  # testinfra has no types
    def __init__(self, host: str, argv: Sequence[str]) -> None:
        super().__init__(host)
        self._shell = Shell(argv)

    def run(self, command: str, *args: str, **_: Any) -> Any:
        text = self.encode(self.get_command(command, *args))
        code, stdout, stderr = self._shell.run(text)
        return self.result(code, text, stdout, stderr)


class ContainerBackend(_Backend):
    """Backend for hosts like docker://CONTAINER."""

    NAME = "docker"

    def __init__(self, container: str, **_: Any) -> None:
        super().__init__(container, ["docker", "exec", "--interactive", container, "/bin/sh"])


class SshBackend(_Backend):
    """Backend for hosts like ssh://ADDRESS; `sudo` starts the shell, and thus all commands, as root."""

    NAME = "ssh"

    def __init__(self, address: str, *, ssh_config: str, sudo: bool = False, **_: Any) -> None:
        shell = ["sudo", "/bin/sh"] if sudo else ["/bin/sh"]
        super().__init__(address, ["ssh", "-F", ssh_config, address, *shell])


class Shell:
    """A shell that starts with the first command, and again after a command that gave no result.

    If it does not start, all later commands fail at once with the same error.
    """

    def __init__(
        self, argv: Sequence[str], *, timeout_s: float = _TIMEOUT_S, limit_bytes: int = _LIMIT_BYTES
    ) -> None:
        self._argv = argv
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._service: process.Service | None = None
        self._problem = ""
        atexit.register(self.close)

    def run(self, command: bytes) -> tuple[int, bytes, bytes]:
        """Return exit code, stdout and stderr of a command; raise CheckError if it gives no result."""
        if self._problem:
            raise CheckError(self._problem)
        if self._service is None:
            self._service = process.start_piped(self._argv, pipe_stderr=True)
            try:
                self._exchange(self._service, b":", _OPENING)
            except CheckError as error:
                self._problem = f"no shell from '{shlex.join(self._argv)}': {error}"
                raise CheckError(self._problem) from error
        return self._exchange(self._service, command)

    def close(self) -> None:
        """End the shell if it runs."""
        if self._service is not None:
            self._service.end()
            for pipe in (self._service.input, self._service.output, self._service.errors):
                pipe.close()
            self._service = None

    def _exchange(
        self, service: process.Service, command: bytes, opening: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        mark = secrets.token_hex(16).encode()
        quoted = b"'" + command.replace(b"'", b"'\"'\"'") + b"'"
        request = _Request(service.input, opening + _REQUEST % {b"mark": mark, b"command": quoted})
        stdout, stderr = _Output(service.output, mark), _Output(service.errors, mark)
        with selectors.DefaultSelector() as selector:
            for pipe in (request, stdout, stderr):
                selector.register(pipe.stream, pipe.event, pipe)

            def has_ended() -> bool:
                _transfer(selector, _POLL_S)
                is_answered = stdout.is_over and stderr.is_over
                return is_answered or stdout.is_closed or self._exceeds_limit(stdout, stderr)

            until(has_ended, timeout_s=self._timeout_s, every_s=0)
            if stdout.code is None or stderr.code is None:
                service.end()
                while _transfer(selector, 0):  # what the program printed before it ended
                    pass
                raise self._no_result(command, stdout, stderr)
        return stdout.code, stdout.text, stderr.text

    def _exceeds_limit(self, *outputs: "_Output") -> bool:
        return sum(len(output.data) for output in outputs) > self._limit_bytes

    def _no_result(self, command: bytes, stdout: "_Output", stderr: "_Output") -> CheckError:
        """Close the shell, and return an error that says why a command has no result."""
        self.close()
        if self._exceeds_limit(stdout, stderr):
            reason = f"the output of a command exceeds {self._limit_bytes} bytes"
        elif stdout.is_closed:
            reason = "the shell ended during a command"
        else:
            reason = f"a command did not end within {self._timeout_s:g} s"
        tail = (stdout.data[-_TAIL_BYTES:] + stderr.data[-_TAIL_BYTES:]).decode(errors="replace")
        return CheckError(f"{reason}: {os.fsdecode(command[:_TAIL_BYTES])}\n{tail}".rstrip())


def _transfer(selector: selectors.BaseSelector, timeout_s: float) -> bool:
    """Read from and write to the pipes that are ready; return False if no pipe was ready."""
    ready = selector.select(timeout_s)
    for key, _ in ready:
        key.data.advance()
        if key.data.is_over:
            selector.unregister(key.fileobj)
    return bool(ready)


class _Request:
    """Text to write to the shell."""

    event = selectors.EVENT_WRITE

    def __init__(self, stream: IO[bytes], text: bytes) -> None:
        self.stream = stream
        self.is_over = False
        self._text = text

    def advance(self) -> None:
        try:
            self._text = self._text[os.write(self.stream.fileno(), self._text[:_WRITE_BYTES]) :]
        except BrokenPipeError:  # the end of stdout says that the shell has ended
            self._text = b""
        self.is_over = not self._text


class _Output:
    """Stdout or stderr of the shell; the output of a command lies between two marks.

    Background processes of earlier commands may print before the first mark.
    """

    event = selectors.EVENT_READ

    def __init__(self, stream: IO[bytes], mark: bytes) -> None:
        self.stream = stream
        self.data = bytearray()
        self.is_closed = False
        self.text = b""
        self.code: int | None = None
        self._begin, self._end = mark + b"(\n", mark + b")"
        self._searched = 0

    @property
    def is_over(self) -> bool:
        return self.is_closed or self.code is not None

    def advance(self) -> None:
        chunk = os.read(self.stream.fileno(), _READ_BYTES)
        self.is_closed = not chunk
        self.data += chunk
        end = self.data.find(self._end, self._searched)
        self._searched = end if end >= 0 else max(0, len(self.data) - len(self._end))
        stop = self.data.find(b"\n", end) if end >= 0 else -1
        if stop >= 0:
            self.text = bytes(self.data[:end]).partition(self._begin)[2]
            self.code = int(self.data[end + len(self._end) : stop])
