"""The builder's subprocess module loses no output, error or child process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.adapters.host import process
from builder.adapters.host.workspace import Workspace, open_run
from builder.app.interrupts import interruptible
from builder.errors import BuildError, Interrupted, MissingError
from builder.wait import until

BOUND_S = 30.0
# Larger than a pipe's buffer: a child blocks while writing it unless its output is read.
FLOOD = "import sys\nfor _ in range(32768): print('x' * 63)\n"
FLOOD_BYTES = 32768 * 64
QUICK = ((signal.SIGTERM, 0.3), (signal.SIGKILL, 5.0))


class ListenerError(Exception):
    pass


def python(code: str, *words: str) -> list[str]:
    return [sys.executable, "-c", code, *words]


def fail(_: str) -> None:
    raise ListenerError("the listener failed")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def ends(pid: int) -> bool:
    return until(lambda: not is_running(pid), timeout_s=BOUND_S, every_s=0.05)


# Tests of output and exit codes.


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_returns_the_exit_code_instead_of_raising(code: int) -> None:
    done = process.run(["sh", "-c", f"echo out; echo err >&2; exit {code}"], timeout_s=BOUND_S)
    assert (done.code, done.output) == (code, "out\nerr")


def test_returns_a_negative_code_if_a_signal_ended_the_child() -> None:
    assert process.run(["sh", "-c", "kill -KILL $$"], timeout_s=BOUND_S).code == -signal.SIGKILL


def test_calls_the_listener_for_every_line_in_order_in_the_callers_thread() -> None:
    heard: list[tuple[str, int]] = []
    done = process.run(
        python(FLOOD), timeout_s=BOUND_S, on_line=lambda line: heard.append((line, threading.get_ident()))
    )
    assert done.code == 0
    assert len(done.output) == FLOOD_BYTES - 1
    assert [line for line, _ in heard] == done.output.split("\n")
    assert {thread for _, thread in heard} == {threading.get_ident()}


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"10 %\r20 %\rdone\n", ["10 %", "20 %", "done"]),
        (b"a \xff b\n\xc3", ["a \ufffd b", "\ufffd"]),
        ("größer\n".encode(), ["größer"]),
        (b"x" * 200_000 + b"\n", ["x" * 200_000]),
    ],
    ids=["nothing", "newline", "no-last-newline", "crlf", "progress", "not-utf-8", "utf-8", "long"],
)
def test_lines_are_split_and_decoded(tmp_path: Path, written: bytes, lines: list[str]) -> None:
    (tmp_path / "written").write_bytes(written)
    heard: list[str] = []
    done = process.run(["cat", "written"], cwd=tmp_path, timeout_s=BOUND_S, on_line=heard.append)
    assert heard == lines
    assert done.output == "\n".join(lines)


def test_joins_characters_and_line_ends_that_arrive_byte_by_byte() -> None:
    code = (
        "import os, sys, time\n"
        "for byte in '€\\r\\n€'.encode():\n"
        "    os.write(1, bytes([byte]))\n"
        "    time.sleep(0.02)\n"
    )
    assert process.run(python(code), timeout_s=BOUND_S).output == "€\n€"


def test_waits_for_a_child_that_closes_its_output() -> None:
    code = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(0.3)\nos._exit(4)\n"
    assert process.run(python(code), timeout_s=BOUND_S).code == 4


def test_child_has_an_empty_stdin() -> None:
    assert process.run(["cat"], timeout_s=BOUND_S).code == 0


# Tests of listeners that raise an exception.


def test_raises_a_listener_error_even_if_the_child_succeeds() -> None:
    with pytest.raises(ListenerError, match="the listener failed"):
        process.run(["echo", "short"], timeout_s=BOUND_S, on_line=fail)


def test_listener_error_ends_a_child_with_much_output() -> None:
    started = time.monotonic()
    with pytest.raises(ListenerError, match="the listener failed"):
        process.run(python(FLOOD), timeout_s=600, on_line=fail)
    assert time.monotonic() - started < BOUND_S


def test_listener_error_does_not_block_a_child_that_writes_in_its_signal_handler(tmp_path: Path) -> None:
    """Output is still read while the child is being ended, so that its handler can finish."""
    code = (
        "import os, signal\n"
        "def end(*_):\n"
        "    for _ in range(32768): os.write(1, b'x' * 63 + b'\\n')\n"
        f"    open({str(tmp_path / 'cleaned')!r}, 'w').write('yes')\n"
        "    os._exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "os.write(1, b'ready\\n')\n"
        "signal.pause()\n"
    )
    started = time.monotonic()
    with pytest.raises(ListenerError):
        process.run(
            python(code),
            timeout_s=600,
            on_line=fail,
            ending=((signal.SIGTERM, BOUND_S), (signal.SIGKILL, 5.0)),
        )
    assert time.monotonic() - started < BOUND_S
    assert (tmp_path / "cleaned").read_text() == "yes"


def test_raises_the_first_listener_error_and_does_not_call_it_again() -> None:
    calls: list[str] = []

    def listen(line: str) -> None:
        calls.append(line)
        raise ListenerError(line)

    with pytest.raises(ListenerError, match=r"^1$"):
        process.run(["sh", "-c", "echo 1; echo 2; echo 3"], timeout_s=BOUND_S, on_line=listen)
    assert calls == ["1"]


def test_listener_error_ends_a_child_that_ignores_sigterm() -> None:
    pids: list[int] = []

    def listen(line: str) -> None:
        pids.append(int(line))
        raise ListenerError

    script = "trap '' TERM; echo $$; while :; do sleep 0.1; done"
    with pytest.raises(ListenerError):
        process.run(["sh", "-c", script], timeout_s=600, on_line=listen, ending=QUICK)
    assert ends(pids[0])


def test_cancellation_takes_precedence_over_a_later_listener_error() -> None:
    cancelled = threading.Event()

    def listen(line: str) -> None:
        if line == "ended":
            raise ListenerError
        cancelled.set()

    script = "trap 'echo ended; exit' TERM; echo started; while :; do sleep 0.05; done"
    with pytest.raises(Interrupted):
        process.run(["sh", "-c", script], timeout_s=BOUND_S, cancelled=cancelled, on_line=listen)


# Tests of cancellation and timeouts.


def test_cancellation_ends_the_whole_process_group() -> None:
    cancelled = threading.Event()
    pids: list[int] = []

    def listen(line: str) -> None:
        pids.append(int(line))
        if len(pids) == 2:
            cancelled.set()

    with pytest.raises(Interrupted):
        process.run(
            ["sh", "-c", "sleep 600 & echo $!; echo $$; wait"],
            timeout_s=600,
            cancelled=cancelled,
            on_line=listen,
        )
    assert all(ends(pid) for pid in pids)


def test_cancelled_child_can_clean_up() -> None:
    cancelled = threading.Event()
    heard: list[str] = []

    def listen(line: str) -> None:
        heard.append(line)
        cancelled.set()

    script = "trap 'echo cleaned; exit 1' TERM; echo started; while :; do sleep 0.05; done"
    with pytest.raises(Interrupted):
        process.run(["sh", "-c", script], timeout_s=600, cancelled=cancelled, on_line=listen)
    assert (heard[0], heard[-1]) == ("started", "cleaned")


@pytest.mark.parametrize("script", ["while :; do sleep 0.1; done", "while :; do echo x; done"])
def test_timeout_error_names_the_command(tmp_path: Path, script: str) -> None:
    with pytest.raises(BuildError) as caught:
        process.run(["sh", "-c", script], timeout_s=0.3, cwd=tmp_path, ending=QUICK)
    assert caught.value.message.startswith("timed out after 0 s: ")
    assert caught.value.message.endswith(f"cd {tmp_path} && sh -c '{script}'")


def test_signal_to_the_main_thread_ends_the_child() -> None:
    pids: list[int] = []

    def listen(line: str) -> None:
        pids.append(int(line))
        os.kill(os.getpid(), signal.SIGTERM)

    with interruptible(), pytest.raises(Interrupted, match="SIGTERM"):
        process.run(["sh", "-c", "echo $$; exec sleep 600"], timeout_s=600, on_line=listen)
    assert ends(pids[0])


# Grandchildren


def test_ends_a_grandchild_that_keeps_the_output_open() -> None:
    started = time.monotonic()
    done = process.run(["sh", "-c", "sleep 600 & echo $!"], timeout_s=600)
    assert time.monotonic() - started < BOUND_S
    assert done.code == 0
    assert ends(int(done.output))


def test_daemon_that_keeps_the_output_open_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has left the group is neither ended nor waited for."""
    monkeypatch.setattr(process, "_GRACE_S", 0.5)
    (tmp_path / "daemon.sh").write_text("echo $$ > pid.new; mv pid.new pid; exec sleep 600\n")
    script = "setsid sh daemon.sh & until test -e pid; do sleep 0.02; done"
    started = time.monotonic()
    done = process.run(["sh", "-c", f"{script}; echo done"], timeout_s=600, cwd=tmp_path)
    assert time.monotonic() - started < BOUND_S
    assert (done.code, done.output) == (0, "done")
    daemon = int((tmp_path / "pid").read_text())
    assert is_running(daemon)
    os.kill(daemon, signal.SIGKILL)


def test_leaves_no_open_file_and_no_thread() -> None:
    before = open_files(), threading.active_count()
    process.run(["echo", "x"], timeout_s=BOUND_S)
    with pytest.raises(ListenerError):
        process.run(["echo", "x"], timeout_s=BOUND_S, on_line=fail)
    assert (open_files(), threading.active_count()) == before


# Tests of programs that cannot be started.


def test_names_a_missing_program() -> None:
    with pytest.raises(MissingError, match="program 'no-such-program' not found") as caught:
        process.run(["no-such-program"], timeout_s=BOUND_S)
    assert caught.value.exit_code == 3


def test_names_a_missing_working_directory(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(MissingError, match=f"cannot start 'true': No such file or directory: {folder}"):
        process.run(["true"], timeout_s=BOUND_S, cwd=folder)


def test_names_a_program_that_is_not_executable(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")
    with pytest.raises(MissingError, match=r"cannot start '.*': Permission denied"):
        process.run([str(tmp_path / "program")], timeout_s=BOUND_S)


# Tests of the environment of a child and of the details of a result.


def environment(env: dict[str, str] | None) -> dict[str, str]:
    lines = process.run(["env"], timeout_s=BOUND_S, env=env).output.splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_only_programs_started_by_a_run_have_the_variable_image_factory_run(tmp_path: Path) -> None:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as run:
        assert environment({})["IMAGE_FACTORY_RUN"] == str(run.scratch)
    assert "IMAGE_FACTORY_RUN" not in environment({})


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: None, {"HOME": "/home/me", "LC_ALL": "C.UTF-8"}),
        (lambda: process.clean_environment(A="1"), {"HOME": "/home/me", "LC_ALL": "C.UTF-8", "A": "1"}),
        (
            lambda: process.inherited_environment(A="1"),
            {"HOME": "/home/me", "LC_ALL": "de_DE", "GIT_DIR": "/elsewhere", "A": "1"},
        ),
        (lambda: {"A": "1"}, {"A": "1"}),
    ],
    ids=["default", "clean", "inherited", "own"],
)
def test_child_gets_only_the_requested_environment(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], dict[str, str] | None],
    expected: dict[str, str],
) -> None:
    for name in os.environ:
        if name != "PATH":
            monkeypatch.delenv(name)
    for name, value in (("HOME", "/home/me"), ("LC_ALL", "de_DE"), ("GIT_DIR", "/elsewhere")):
        monkeypatch.setenv(name, value)
    found = environment(make())
    for name in ("PATH", "PWD", "SHLVL", "_"):
        found.pop(name, None)
    assert found == expected


def test_details_of_a_result_end_with_a_shell_command_that_repeats_the_call(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    done = process.run(["sh", "-c", "echo 'it''s'; pwd; exit 3"], cwd=folder, timeout_s=BOUND_S)
    *shown, last = done.details.splitlines()
    assert shown == ["its", str(folder), ""]
    assert last.startswith("$ ")
    again = subprocess.run(last.removeprefix("$ "), shell=True, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout.splitlines()) == (3, ["its", str(folder)])


def test_details_of_a_result_keep_the_last_lines_of_output() -> None:
    done = process.run(["seq", "100"], timeout_s=BOUND_S)
    assert done.details.splitlines() == [*map(str, range(81, 101)), "", "$ seq 100"]
    assert process.run(["true"], timeout_s=BOUND_S).details == "$ true"
