"""The shell that runs the commands of checks: results, isolation of commands, and machines that disappear."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from testinfra.host import Host

from builder.adapters.checks import testinfra
from builder.adapters.checks.shell import ContainerBackend, Shell, SshBackend
from builder.adapters.checks.testinfra import run_checks
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Workspace, open_run
from builder.errors import CheckError
from builder.events import Stream
from builder.wait import until

BOUND_S = 60.0


@pytest.fixture(params=["sh", "bash"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    opened = Shell([request.param])
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (b"echo out; echo err >&2; exit 3", (3, b"out\n", b"err\n")),
        (b"printf 'no newline'", (0, b"no newline", b"")),
        (b"printf '\\000\\377\\r\\n\\n' && printf '\\376' >&2", (0, b"\0\xff\r\n\n", b"\xfe")),
        (b"printf %s 'it''s \xff \"$HOME\" `'\necho \\\n x", (0, b'its \xff "$HOME" `x\n', b"")),
        (b"exit 255", (255, b"", b"")),
        (b"kill -9 $$", (137, b"", b"")),
        (b"false; true &\nwait; exec sh -c 'exit 7'", (7, b"", b"")),
    ],
)
def test_returns_exit_code_and_both_outputs(
    shell: Shell, command: bytes, result: tuple[int, bytes, bytes]
) -> None:
    assert [shell.run(command), shell.run(command)] == [result, result]


def test_a_syntax_error_is_returned_with_exit_code_and_stderr(shell: Shell) -> None:
    code, stdout, stderr = shell.run(b"echo 'open")
    assert (code, stdout) == (2, b"")
    assert b"nterminated quoted string" in stderr or b"unexpected EOF" in stderr


def test_a_command_that_reads_stdin_reads_nothing(shell: Shell) -> None:
    assert shell.run(b"cat; read line || echo end") == (0, b"end\n", b"")
    assert shell.run(b"echo next") == (0, b"next\n", b"")


def test_a_command_does_not_change_the_shell_of_the_next_command(shell: Shell) -> None:
    before = shell.run(b"pwd; umask; echo $A; ls -l /proc/self/fd | wc -l")
    shell.run(b"cd /; umask 077; export A=1; exec 1>&2 3>&2")
    assert shell.run(b"pwd; umask; echo $A; ls -l /proc/self/fd | wc -l") == before


def test_a_command_has_the_environment_of_a_new_shell(shell: Shell) -> None:
    probe = "env | grep -v '^_='"
    argv = ["env", "-u", "SHLVL", "/bin/sh", "-c", probe]
    direct = subprocess.run(argv, capture_output=True, check=True, timeout=BOUND_S).stdout
    assert sorted(shell.run(probe.encode())[1].splitlines()) == sorted(direct.splitlines())


def test_output_of_a_background_process_does_not_reach_the_next_command(shell: Shell, tmp_path: Path) -> None:
    waiting = f"while ! test -e {tmp_path}/go; do sleep 0.01; done; echo late; touch {tmp_path}/printed"
    assert shell.run(f"({waiting}) & echo now".encode()) == (0, b"now\n", b"")
    (tmp_path / "go").touch()
    assert until((tmp_path / "printed").exists, timeout_s=BOUND_S, every_s=0.01)
    assert shell.run(b"echo next") == (0, b"next\n", b"")


def test_long_commands_and_outputs_are_complete(shell: Shell) -> None:
    word = "x" * 100_000
    code, stdout, stderr = shell.run(f"echo {word}; head -c 5000000 /dev/zero >&2".encode())
    assert (code, stdout, len(stderr)) == (0, f"{word}\n".encode(), 5_000_000)


@pytest.mark.parametrize("command", [b"kill -9 $PPID", b"echo partial; kill $PPID; sleep 1"])
def test_after_a_command_that_kills_the_shell_a_new_shell_starts(shell: Shell, command: bytes) -> None:
    shell.run(b":")
    with pytest.raises(CheckError, match=r"the shell ended during a command: .*kill"):
        shell.run(command)
    assert shell.run(b"echo next") == (0, b"next\n", b"")


def test_a_command_that_hangs_ends_at_the_timeout() -> None:
    shell = Shell(["/bin/sh"], timeout_s=0.5)
    hanging = b"echo begun; while sleep 0.1; do echo waiting; done"
    with pytest.raises(CheckError, match=r"did not end within 0.5 s: echo begun;(.|\n)*waiting"):
        shell.run(hanging)
    assert shell.run(b"echo next") == (0, b"next\n", b"")
    shell.close()


def test_endless_output_is_truncated() -> None:
    shell = Shell(["/bin/sh"], limit_bytes=1_000_000)
    with pytest.raises(CheckError, match="output of a command exceeds 1000000 bytes: yes"):
        shell.run(b"yes")
    assert shell.run(b"echo next") == (0, b"next\n", b"")
    shell.close()


def test_if_no_shell_starts_every_command_fails_with_the_first_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    shell = Shell(["sh", "-c", f"echo started >> {log}; echo No route to host >&2; exit 255"])
    for _ in range(2):
        with pytest.raises(CheckError, match=r"no shell from 'sh -c .*No route to host"):
            shell.run(b"true")
    assert log.read_text() == "started\n"


def test_ssh_logs_in_with_the_given_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\nexec /bin/sh\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for sudo in (True, False):
        host = Host(SshBackend("10.0.0.1", ssh_config="/c", sudo=sudo))
        assert [host.check_output("echo %s", "a b"), host.run("exit 255").rc] == ["a b", 255]
    logins = (tmp_path / "log").read_text().splitlines()
    assert logins == ["-F /c 10.0.0.1 sudo /bin/sh", "-F /c 10.0.0.1 /bin/sh"]


@pytest.fixture
def container(shell_image: str) -> Iterator[str]:
    engine = Engine()
    created = engine.create(shell_image, command=["sleep", "infinity"], network="none", labels={}, init=True)
    engine.start(created)
    yield created
    engine.remove_container(created)


@pytest.mark.engine
def test_commands_in_a_container_run_as_with_docker_exec(container: str) -> None:
    probe = "export -p; pwd; umask; echo $0; cat /proc/self/limits /proc/self/cgroup; missing"
    argv = ["docker", "exec", container, "/bin/sh", "-c", probe]
    direct = subprocess.run(argv, capture_output=True, check=False, timeout=BOUND_S)
    ran = Host(ContainerBackend(container)).run(probe)
    assert (ran.rc, ran.stdout_bytes, ran.stderr_bytes) == (127, direct.stdout, direct.stderr)


@pytest.mark.engine
def test_error_of_a_check_names_the_removed_container(container: str) -> None:
    host = Host(ContainerBackend(container))
    assert host.check_output("echo up") == "up"
    Engine().remove_container(container)
    for problem in ("the shell ended", "no shell from", "no shell from"):
        with pytest.raises(CheckError, match=rf"(?s){problem}.*{container}"):
            host.run("echo %s", container)


@pytest.mark.engine
def test_all_commands_of_checks_use_one_shell(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testinfra, "evaluate_variables", lambda *_: {})
    # A process that `docker exec` starts has the parent process ID 0.
    check = "def test_shell(host):\n    assert host.check_output('echo $PPID') == ''\n"
    for name in ("one", "two"):
        (tmp_path / f"test_{name}.py").write_text(check)
    plan: Any = SimpleNamespace(
        target=SimpleNamespace(name="t"),
        stack=SimpleNamespace(facts={}),
        versions={},
        capabilities={},
        components=(),
    )
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as run:
        found = run_checks(
            run, tmp_path, Stream(), plan, [tmp_path], f"docker://{container}", environment=os.environ
        )
    assert not (tmp_path / "__pycache__").exists()
    parents = [re.findall("^E .*assert '([0-9]+)' == ''", check.message, re.MULTILINE) for check in found]
    assert len(parents) == 2
    assert parents[0] == parents[1] not in ([], ["0"])
