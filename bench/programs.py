"""Runs a program and takes its time; whatever happens, no program outlives the bench."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from builder.errors import BuildError, MissingError

_BOUND_S = 1800
_GRACE_S = 60


def timed(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> float:
    """Wall seconds of a program that ends with 0; what it says goes to `log`."""
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(argv)}\n".encode())
        output.flush()
        start = output.tell()
        begun = time.perf_counter()
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        # wait() with a time-out polls and would be late by up to 50 ms, much against a no-op.
        bound = threading.Timer(_BOUND_S, child.kill)
        bound.start()
        try:
            code = child.wait()
            seconds = time.perf_counter() - begun
        finally:
            bound.cancel()
            _end(child)
    if code != 0:
        with log.open("rb") as said:
            said.seek(start)
            tail = said.read().decode(errors="replace").splitlines()[-25:]
        raise BuildError(f"{argv[0]} ended with code {code}", hint=f"see {log}", details="\n".join(tail))
    return seconds


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ends a program that still runs, group and all, after it had time to clear up."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def said(argv: Sequence[str]) -> str:
    """What a program that ends with 0 writes to stdout."""
    done = subprocess.run(list(argv), capture_output=True, text=True, timeout=_BOUND_S, check=False)
    if done.returncode != 0:
        program = " ".join(argv[:3])
        raise BuildError(
            f"{program} ended with code {done.returncode}", hint="run it by hand", details=done.stderr
        )
    return done.stdout.strip()


def find_program(name: str, *, hint: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"no program '{name}' here", hint=hint)
    return Path(found)


def find_client(engine_version: str) -> Path:
    """The engine's command line, of the engine's own release if there is one.

    Later clients build through a plugin that a machine may not have; the engine's own needs none.
    """
    first = find_program("docker", hint="apt-get install docker.io")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        found = shutil.which("docker", path=folder)
        if found and engine_version in said([found, "--version"]):
            return Path(found)
    return first
