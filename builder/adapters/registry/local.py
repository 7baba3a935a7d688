"""Run `docker-registry` on loopback, the registry for sites that configure none.

Its process outlives the command that starts it. A state file records the process id, and the process counts
as the registry only if its command line names the config file of the same folder. Knows nothing of images.
"""

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.adapters.host import private, process
from builder.adapters.host.workspace import Workspace, locked, write_atomically
from builder.adapters.registry import password
from builder.adapters.registry.api import Credentials
from builder.errors import FactoryError, MissingError
from builder.reading import parse, read_text
from builder.wait import until

PROGRAM = "docker-registry"
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class _State:
    """The registry process that was started last; `port` is 0 until the process listens."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """Registry process with its config, state, log and images in a folder."""

    folder: Path

    def find(self) -> str:
        """Return host:port of the registry; "" if it is not running."""
        state = self._state()
        return f"127.0.0.1:{state.port}" if state.port and self._runs(state.pid) else ""

    def start(self) -> str:
        """Start the registry unless it is running, at its last port if free; return host:port."""
        host = self.find()
        if not host or not self._has_login():
            self.stop()  # a process without login, or one whose starter was killed before it listened
            last = self._state().port  # keeps image names valid that were printed before
            host = (last and self._start(last)) or self._start(0)
        if not host:
            raise MissingError("the registry on this machine did not start", hint=f"see {self._log}")
        return host

    def stop(self) -> bool:
        """Stop the registry; return False if it is not running."""
        pid = self._state().pid
        if not self._runs(pid):
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not until(lambda: _has_ended(pid), timeout_s=_WAIT_S, every_s=0.1):
            raise FactoryError(
                f"the registry (process {pid}) did not stop within {_WAIT_S:.0f} s", hint=f"kill -KILL {pid}"
            )
        return True

    @property
    def credentials(self) -> Credentials:
        """The login of the registry, which is the same as long as its folder exists."""
        return password.read(self.folder)

    @property
    def login_command(self) -> str:
        """The command that stores the login for the engine's client."""
        file = shlex.quote(str(password.file_of(self.folder)))
        return f"docker login {self.find()} --username {password.USER} --password-stdin < {file}"

    @property
    def _config(self) -> Path:
        return self.folder / "config.yml"

    @property
    def _log(self) -> Path:
        return self.folder / "log.txt"

    def _state(self) -> _State:
        path = self.folder / "state.json"
        try:
            return _State(**parse(read_text(path), json.loads))
        except FileNotFoundError:
            return _State(pid=0, port=0)
        except (TypeError, ValueError):  # damaged
            pids = (int(found.name) for found in Path("/proc").glob("[0-9]*"))
            pid = next((pid for pid in pids if self._runs(pid)), 0)
            return _State(pid=pid, port=self._listening() if pid else 0)

    def _write_state(self, state: _State) -> None:
        write_atomically(self.folder / "state.json", json.dumps(asdict(state)))

    def _runs(self, pid: int) -> bool:
        """True if the process is this registry and belongs to this user."""
        folder = Path(f"/proc/{pid}")
        try:
            argv, owner = (folder / "cmdline").read_bytes().split(b"\0"), folder.stat().st_uid
        except OSError:
            return False
        return argv[1:3] == [b"serve", os.fsencode(self._config)] and owner in private.own_ids()

    def _has_login(self) -> bool:
        """False if an earlier version of the builder started the registry, which then has no login."""
        files = (self._config, password.file_of(self.folder))
        return all(file.exists() for file in files) and b'"htpasswd"' in self._config.read_bytes()

    def _start(self, port: int) -> str:
        """Start the program at a port (0: any free port); return host:port, "" if it did not start."""
        program = _find_program()
        self.folder.mkdir(parents=True, exist_ok=True)
        password.ensure(self.folder)
        self._config.write_text(json.dumps(self._configuration(port)), encoding="utf-8")  # JSON is YAML
        self._log.write_bytes(b"")
        # REGISTRY_* variables would override the config file; version 3 sends traces by default.
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
            "auth": {"htpasswd": {"realm": "builder", "path": str(password.hash_file_of(self.folder))}},
        }

    def _listening(self) -> int:
        """Return the port in the log; 0 before the registry listens."""
        found = _LISTENING.search(self._log.read_text(encoding="utf-8", errors="replace"))
        return int(found[1]) if found else 0


def _has_ended(pid: int) -> bool:
    """True once all threads of a process have ended, which closes its sockets.

    Before that, the command line may be empty, and the first thread a zombie while other threads still run.
    """
    process_folder = Path(f"/proc/{pid}")
    try:
        threads = list((process_folder / "task").iterdir())
        status = (process_folder / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return len(threads) <= 1 and status.rpartition(") ")[2][:1] in ("Z", "X")


def _find_program() -> str:
    if found := shutil.which(PROGRAM):
        return found
    raise MissingError(
        f"program '{PROGRAM}' not found: it is the default registry of this machine",
        hint=f"apt-get install {PROGRAM}, or: make tools; without such a package:"
        " docker run -d -p 127.0.0.1:5000:5000 registry:2,"
        ' and push = "127.0.0.1:5000" below [registry] in site.toml',
    )


def former_folder(workspace: Workspace) -> Path:
    """Return the folder in which earlier versions of the builder kept their registry."""
    return workspace.home / "registry"


def remove_former(workspace: Workspace) -> None:
    """Stop the registry of an earlier version of the builder and delete its images."""
    folder = former_folder(workspace)
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError, ProcessLookupError):
        pid = int(json.loads((folder / "ready.json").read_text(encoding="utf-8"))["pid"])
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"builder.rehearsal.registry.server" in argv and os.fsencode(folder / "data") in argv:
            os.kill(pid, signal.SIGTERM)
    shutil.rmtree(folder)


@contextmanager
def serving(folder: Path) -> Iterator[DockerRegistry]:
    """Run a registry in a folder until the block ends."""
    registry = DockerRegistry(folder.absolute())
    try:
        registry.start()
        yield registry
    finally:
        registry.stop()


def of(workspace: Workspace) -> DockerRegistry:
    """Return the registry that all checkouts of a user share."""
    return DockerRegistry(workspace.home.absolute() / PROGRAM)


def ensure_up(workspace: Workspace) -> str:
    """Start the registry unless it is running; return host:port."""
    with locked(workspace, "registry"):
        return of(workspace).start()


def stop(workspace: Workspace) -> bool:
    """Stop the registry; return False if it is not running."""
    with locked(workspace, "registry"):
        return of(workspace).stop()
