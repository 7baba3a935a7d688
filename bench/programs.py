"""Timed subprocesses, which are always ended with the benchmark."""

import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from builder.errors import BuildError, MissingError

_TIMEOUT_S = 1800
_GRACE_S = 60


def timed(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> float:
    """Run a program with its output in `log`; return its wall time; raise BuildError if it fails."""
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
        # wait() with a timeout polls every 50 ms, which is long compared to a no-op build.
        timer = threading.Timer(_TIMEOUT_S, child.kill)
        timer.start()
        try:
            code = child.wait()
            seconds = time.perf_counter() - begun
        finally:
            timer.cancel()
            _end(child)
    if code != 0:
        with log.open("rb") as written:
            written.seek(start)
            tail = written.read().decode(errors="replace").splitlines()[-25:]
        raise BuildError(f"{argv[0]} ended with code {code}", hint=f"see {log}", details="\n".join(tail))
    return seconds


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End a running program and its process group, after a grace period for its cleanup."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def output_of(argv: Sequence[str]) -> str:
    """Run a program and return its stdout; raise BuildError if it fails."""
    done = subprocess.run(list(argv), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        program = " ".join(argv[:3])
        raise BuildError(
            f"{program} ended with code {done.returncode}",
            hint=f"run it manually: {shlex.join(argv)}",
            details=done.stderr,
        )
    return done.stdout.strip()


def find_program(name: str, *, hint: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"program '{name}' is not installed", hint=hint)
    return Path(found)


def find_client(engine_version: str) -> Path:
    """Return the path of the docker client, preferably of the engine's release.

    Newer clients build through a plugin that may not be installed.
    """
    first = find_program("docker", hint="apt-get install docker.io")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        found = shutil.which("docker", path=folder)
        if found and engine_version in output_of([found, "--version"]):
            return Path(found)
    return first
