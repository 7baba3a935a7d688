"""Attacks by a process that has confined itself, as if its program had been taken over."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rehearsal import ROOT

# Each line is an attack. The folder `outside` has a secret; `folder` is the own folder of the process.
ATTACKS = [
    "socket.socket(socket.AF_UNIX).connect(engine)",
    "socket.socket(socket.AF_UNIX).connect('\\0' + engine)",
    "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', log)",
    "call(41, ctypes.c_ulong(socket.AF_UNIX | 1 << 40), 1, 0)",  # the kernel ignores the upper half
    "socket.socketpair()",
    "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "threads(lambda: socket.socket(socket.AF_UNIX))",
    "child(lambda: socket.socket(socket.AF_UNIX))",
    "call(425, 8, bytes(120))",  # io_uring_setup
    "call(41 | 0x40000000, 1, 1, 0)",  # socket of the x32 ABI
    "subprocess.run(['true'])",
    "os.execv('/bin/true', ['true'])",
    "os.open(victim_memory, os.O_RDWR)",
    "call(101, 16, victim, 0, 0)",  # ptrace, attach
    "call(310, victim, 0, 0, 0, 0, 0)",  # process_vm_readv
    "(outside / 'secret').read_text()",
    "(folder / '..' / 'outside' / 'secret').read_text()",
    "Path('/proc/self/root', *(outside / 'secret').parts[1:]).read_text()",
    "Path(f'/proc/{victim}/environ').read_bytes()",
    "Path('/etc/shadow').read_text()",
    "list(outside.iterdir())",
    "(outside / 'secret').write_text('')",
    "os.truncate(outside / 'secret', 0)",
    "(outside / 'new').touch()",
    "(outside / 'secret').unlink()",
    "(outside / 'secret').rename(folder / 'secret')",
    "(folder / 'own').rename(outside / 'own')",
    "(outside / 'secret').chmod(0o666)",
    "os.chown(outside / 'secret', os.getuid(), os.getgid())",
    "(folder / 'link').symlink_to(outside / 'secret')",
    "(folder / 'link').hardlink_to(outside / 'secret')",
    "os.mkfifo(folder / 'pipe')",
    "os.mknod(folder / 'device', 0o60600, os.makedev(8, 0))",
    "call(165, b'none', bytes(folder), b'tmpfs', 0, 0)",  # mount
    "call(308, os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)",  # setns
    "Path('/dev/mem').open('rb')",
    "Path('/proc/sys/kernel/core_pattern').write_text('x')",
]
# Attacks that may fail without confinement too: they need root, a setting or a version of the kernel, or
# would change this machine.
UNCONTROLLED = (
    *("AF_VSOCK", "AF_PACKET", "call(425", "0x40000000", "victim_memory", "call(101", "/etc/shadow"),
    *("mknod", "call(165", "call(308", "/dev/mem", "core_pattern"),
)
USES = [
    "(folder / 'a' / 'b').mkdir(parents=True)",
    "(folder / 'a' / 'x').write_text('x')",
    "(folder / 'a' / 'x').rename(folder / 'a' / 'b' / 'x')",
    "(folder / 'a' / 'b' / 'x').read_text()",
    "shutil.rmtree(folder / 'a')",
    "tempfile.TemporaryFile().write(b'x')",
    "socket.create_server(('127.0.0.1', 0))",
    "socket.getaddrinfo('localhost', 80)",
    "socket.create_connection(server)",
    "importlib.import_module('xmlrpc.client')",
    "threads(lambda: (folder / 'y').touch())",
    "os.kill(victim, 0)",
]
PROGRAM = """
import ctypes, importlib, json, os, shutil, socket, subprocess, sys, tempfile, threading
from pathlib import Path
from builder.adapters.host.confinement import confine

given = json.load(sys.stdin)
folder, outside = Path(given["folder"]), Path(given["outside"])
engine, log, victim = given["engine"], given["log"], given["victim"]
victim_memory, server = f"/proc/{victim}/mem", tuple(given["server"])
tempfile.tempdir = str(folder)

def call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    whole = [ctypes.c_long(value) if isinstance(value, int) else value for value in (number, *arguments)]
    if libc.syscall(*whole) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def threads(act):
    errors = []
    def run():
        try:
            act()
        except OSError as error:
            errors.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]

def child(act):
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise OSError("the child was refused")

def restore():
    for path in (folder, outside):
        for old in path.iterdir():
            if str(old) not in (engine, log):
                old.unlink()
    (outside / "secret").write_text("secret")
    (folder / "own").touch()

def apart(line):
    restore()
    pid = os.fork()
    if pid == 0:
        try:
            exec(line, globals())
        except Exception as error:
            print(line, repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return "" if os.waitpid(pid, 0)[1] == 0 else "failed"

results = []
if given["apart"]:
    print(json.dumps([[line, apart(line)] for line in given["lines"]]))
    sys.exit()
if given["confined"]:
    readable = [Path("/usr"), Path("/lib"), Path("/etc/hosts"), Path(sys.prefix), Path(sys.base_prefix)]
    results += confine(readable=readable, writable=[folder])
for line in given["lines"]:
    try:
        exec(line)
    except OSError as error:
        results.append([line, str(error)])
    else:
        results.append([line, ""])
print(json.dumps(results))
"""


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Folders, an engine's socket, a server, and another process of the same user."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for path in (folder, outside):
        path.mkdir()
    (outside / "secret").write_text("secret")
    (folder / "own").touch()
    engine, log = str(outside / "engine.sock"), str(outside / "log.sock")
    with (
        socket.socket(socket.AF_UNIX) as plain,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(["sleep", "infinity"]) as victim,
    ):
        for listening, name in ((plain, engine), (abstract, f"\0{engine}")):
            listening.bind(name)
            listening.listen()
        datagrams.bind(log)
        yield {
            "folder": str(folder),
            "outside": str(outside),
            "engine": engine,
            "log": log,
            "server": server.getsockname(),
            "victim": victim.pid,
        }
        victim.kill()


def results(
    surroundings: dict[str, Any], lines: list[str], *, confined: bool, apart: bool = False
) -> dict[str, str]:
    """Execute the lines in a new process; return the error of each line, "" if the line succeeded.

    `apart`: each line in its own child of that process, and with all files as they were.
    """
    given = surroundings | {"lines": lines, "confined": confined, "apart": apart}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if len(found) != len(lines):
        pytest.skip(f"capability absent: {found[: -len(lines)]}")
    return dict(found)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86_64")
def test_a_confined_process_reaches_no_engine_no_program_and_no_other_file(
    surroundings: dict[str, Any],
) -> None:
    found = results(surroundings, ATTACKS, confined=True)
    assert {line: error for line, error in found.items() if not error} == {}
    assert Path(surroundings["outside"], "secret").read_text() == "secret"
    assert sorted(path.name for path in Path(surroundings["folder"]).iterdir()) == ["own"]


def test_a_confined_process_uses_its_folder_and_the_network(surroundings: dict[str, Any]) -> None:
    found = results(surroundings, USES, confined=True)
    assert {line: error for line, error in found.items() if error} == {}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86_64")
def test_attacks_work_without_confinement(surroundings: dict[str, Any]) -> None:
    lines = [line for line in ATTACKS if not any(word in line for word in UNCONTROLLED)]
    found = results(surroundings, lines, confined=False, apart=True)
    assert {line: error for line, error in found.items() if error} == {}
    assert len(ATTACKS) - len(lines) == len(UNCONTROLLED)
