"""Run the registry of this machine, for sites that name no other: `docker-registry` on loopback.

Its process outlives the command that starts it. A state file names the process, whose command line must name
the configuration in the same folder. Knows nothing of images: the registry's client treats it as any other.
"""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.adapters.host import process
from builder.adapters.host.workspace import Workspace, locked, write_atomically
from builder.errors import FactoryError, MissingError
from builder.wait import until

PROGRAM = "docker-registry"
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class _State:
    """The process that was started last; `port` is 0 until it listens."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """One registry, with its configuration, state, log and images in a folder."""

    folder: Path

    def find(self) -> str:
        """host:port of the registry; "" if it does not run."""
        state = self._state()
        return f"127.0.0.1:{state.port}" if state.port and self._runs(state.pid) else ""

    def start(self) -> str:
        """Start the registry, at its last port if that is free; returns host:port."""
        if not (host := self.find()):
            self.stop()  # one whose starter was killed before it listened
            last = self._state().port  # names that were printed stay valid as long as the port does
            host = (last and self._start(last)) or self._start(0)
        if not host:
            raise MissingError("the registry on this machine did not start", hint=f"see {self._log}")
        return host

    def stop(self) -> bool:
        """Stop the registry; returns false if it does not run."""
        pid = self._state().pid
        if not self._runs(pid):
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not until(lambda: not self._runs(pid), timeout_s=_WAIT_S, every_s=0.1):
            raise FactoryError(f"the registry (process {pid}) does not end", hint=f"kill -KILL {pid}")
        return True

    @property
    def _config(self) -> Path:
        return self.folder / "config.yml"

    @property
    def _log(self) -> Path:
        return self.folder / "log.txt"

    def _state(self) -> _State:
        try:
            return _State(**json.loads((self.folder / "state.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return _State(pid=0, port=0)

    def _write_state(self, state: _State) -> None:
        write_atomically(self.folder / "state.json", json.dumps(asdict(state)))

    def _runs(self, pid: int) -> bool:
        """True if the process is this registry: process ids are reused."""
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return argv[1:3] == [b"serve", os.fsencode(self._config)]

    def _start(self, port: int) -> str:
        """Start the program at a port, 0 for any; returns host:port, "" if it ends without listening."""
        program = _find_program()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text(json.dumps(self._configuration(port)), encoding="utf-8")  # JSON is YAML
        self._log.write_bytes(b"")
        # REGISTRY_* of the environment would override the file; version 3 traces unless told not to.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "OTEL_TRACES_EXPORTER": "none"}
        argv = [program, "serve", str(self._config)]
        service = process.start_detached(argv, log=self._log, env=environment)
        self._write_state(_State(pid=service.pid, port=0))
        until(lambda: bool(self._listening()) or not service.runs(), timeout_s=_WAIT_S, every_s=0.1)
        self._write_state(_State(pid=service.pid, port=self._listening()))
        if not self._listening():
            service.end()
        return self.find()

    def _configuration(self, port: int) -> dict[str, object]:
        return {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "data")},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"127.0.0.1:{port}"},
        }

    def _listening(self) -> int:
        """The port that the log names; 0 as long as it names none."""
        found = _LISTENING.search(self._log.read_text(encoding="utf-8", errors="replace"))
        return int(found[1]) if found else 0


def _find_program() -> str:
    if found := shutil.which(PROGRAM):
        return found
    raise MissingError(
        f"no program '{PROGRAM}' here, which serves the registry of this machine",
        hint=f"apt-get install {PROGRAM}, or: make tools; where no such package exists:"
        " docker run -d -p 127.0.0.1:5000:5000 registry:2,"
        ' and push = "127.0.0.1:5000" below [registry] in site.toml',
    )


def former_folder(workspace: Workspace) -> Path:
    """Where earlier versions kept the images of a registry of their own."""
    return workspace.home / "registry"


def remove_former(workspace: Workspace) -> None:
    """End the registry of an earlier version, if it runs, and remove its images."""
    folder = former_folder(workspace)
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError, ProcessLookupError):
        pid = int(json.loads((folder / "ready.json").read_text(encoding="utf-8"))["pid"])
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"builder.rehearsal.registry.server" in argv and os.fsencode(folder / "data") in argv:
            os.kill(pid, signal.SIGTERM)
    shutil.rmtree(folder)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run a registry in a folder until the block ends; yields host:port."""
    registry = DockerRegistry(folder.absolute())
    try:
        yield registry.start()
    finally:
        registry.stop()


def _of(workspace: Workspace) -> DockerRegistry:
    """The registry that all checkouts of a user share."""
    return DockerRegistry(workspace.home.absolute() / PROGRAM)


def find(workspace: Workspace) -> str:
    """host:port of the registry; "" if it does not run."""
    return _of(workspace).find()


def ensure_up(workspace: Workspace) -> str:
    """host:port of the registry, started if it does not run."""
    with locked(workspace, "registry"):
        return _of(workspace).start()


def stop(workspace: Workspace) -> bool:
    """Stop the registry; returns false if it does not run."""
    with locked(workspace, "registry"):
        return _of(workspace).stop()
