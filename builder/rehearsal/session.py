"""Start, find, query and stop rehearsals. Loads neither moto nor boto3.

Each rehearsal is a background process with a folder in the builder's home; it is running if and only if the
process holds the lock file in that folder.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builder.adapters.engine.client import Engine
from builder.adapters.host import process
from builder.adapters.host.http import Client, TransientError
from builder.adapters.host.network import Network
from builder.adapters.host.workspace import Workspace, locked, write_atomically
from builder.errors import FactoryError, MissingError, UsageError
from builder.rehearsal.calls import Call, Disturbance
from builder.rehearsal.ec2.engine_hosts import sweep
from builder.rehearsal.fence import Fence, fence
from builder.rehearsal.files import Files, Settings, hold
from builder.rehearsal.gate import CONTROL, SERVICES, Key
from builder.rehearsal.rules import NEW_ACCOUNT, Rules
from builder.wait import until

_START_S, _END_S = 120.0, 180.0
_ASK_S = 60.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


def _is_alive(files: Files) -> bool:
    if not files.alive.exists():
        return False
    with suppress(UsageError), hold(files.alive):
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """A running rehearsal: its endpoint, process, registries and settings."""

    name: str
    folder: Path
    endpoint: str
    pid: int
    session: str
    account: str
    regions: tuple[str, ...]
    registries: Mapping[str, str]
    ssh_port: int
    refusing_port: int
    starts: tuple[str, ...]
    services: tuple[str, ...] = SERVICES
    access_key: str = ""
    secret_key: str = field(default="", repr=False)

    @property
    def key(self) -> Key:
        """Return the rehearsal's credentials; raise MissingError if it was started by an older version."""
        if not self.secret_key:
            raise MissingError(
                f"the rehearsal '{self.name}' was started by an older version of the builder",
                hint=_down(self.name),
            )
        return Key(access=self.access_key, secret=self.secret_key)

    def fence(self, scratch: Path, *, region: str = "", inherited: Mapping[str, str] = os.environ) -> Fence:
        """Return the environment and settings for tools that use this rehearsal."""
        return fence(
            self.endpoint,
            key=self.key,
            region=region or self.regions[0],
            refusing_port=self.refusing_port,
            scratch=scratch,
            inherited=inherited,
        )

    def _ask(self, method: str, what: str, content: object = None) -> Any:
        client, body = Client(Network(), silence_s=_ASK_S), json.dumps(content).encode()
        headers = {"Content-Length": str(len(body)), "Authorization": f"Bearer {self.key.secret}"}
        try:
            with client.open(
                method, f"{self.endpoint}{CONTROL}{what}", headers=headers, body=iter((body,))
            ) as response:
                answer = json.loads(b"".join(client.chunks(response)))
        except (TransientError, MissingError) as error:
            raise MissingError(
                f"the rehearsal at {self.endpoint} does not answer: {error}", hint="builder rehearse status"
            ) from error
        finally:
            client.close()
        if response.status >= 400:
            raise UsageError(
                f"the rehearsal refused {what}: {answer['error']}",
                hint=answer.get("hint", f"see {Files(self.folder).log}"),
            )
        return answer

    def calls(self, *, after: int = 0) -> list[Call]:
        """Return the recorded calls after number `after`, in the order of their arrival."""
        found = [Call(**table) for table in self._ask("GET", f"calls?after={after}")]
        return sorted(found, key=lambda call: call.number)

    def disturb(self, *disturbances: Disturbance) -> None:
        tables = [asdict(disturbance) for disturbance in disturbances]
        for table in tables:
            if table.pop("callback"):
                raise UsageError(
                    "disturbance: a callback works only in the process of the proxy",
                    hint="start a Proxy in this process",
                )
        self._ask("PUT", "disturbances", tables)

    def clear_disturbances(self) -> None:
        self._ask("DELETE", "disturbances")

    @property
    def rules(self) -> Rules:
        return Rules.from_table(self._ask("GET", "rules"))

    def set_rules(self, rules: Rules) -> None:
        self._ask("PUT", "rules", rules.as_table())

    def status(self) -> dict[str, list[dict[str, str]]]:
        answer = self._ask("GET", "status")
        assert isinstance(answer, dict)
        return answer


def files_of(workspace: Workspace, name: str) -> Files:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name for a rehearsal",
            hint="use at most 31 lower case letters, digits and dashes",
        )
    return Files(workspace.home / "rehearsals" / name)


def session_of(files: Files) -> str:
    """Return the id that marks a rehearsal's containers and images: a hash of its folder."""
    return hashlib.sha256(str(files.folder).encode()).hexdigest()[:10]


def find(workspace: Workspace, name: str) -> Rehearsal | None:
    files = files_of(workspace, name)
    try:
        table = json.loads(files.ready.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not _is_alive(files):
        return None
    lists = {key: tuple(table[key]) for key in ("regions", "starts", "services") if key in table}
    return Rehearsal(name=name, folder=files.folder, **{**table, **lists})


def names(workspace: Workspace) -> list[str]:
    """Return the names of all rehearsals with a folder, running or dead."""
    return sorted(path.name for path in (workspace.home / "rehearsals").glob("*") if path.is_dir())


def up(
    workspace: Workspace,
    name: str,
    *,
    engine_url: str,
    account: Mapping[str, Any],
    machines: Mapping[str, str],
    services: tuple[str, ...] = SERVICES,
    rules: Rules = NEW_ACCOUNT,
) -> Rehearsal:
    """Return the running rehearsal of that name, or start an empty one."""
    with locked(workspace, f"rehearsal-{name}"):
        if running := find(workspace, name):
            return running
        files = files_of(workspace, name)
        if _is_alive(files):
            raise MissingError(
                f"the rehearsal '{name}' is running but does not answer",
                hint=f"see {files.log}, then: {_down(name)}",
            )
        shutil.rmtree(files.folder, ignore_errors=True)
        files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = Settings(
            session=session_of(files),
            engine_url=engine_url,
            account=account,
            machines=machines,
            services=services,
            rules=rules,
        )
        write_atomically(files.settings, json.dumps(asdict(settings)))
        return _start(workspace, name, files)


def _start(workspace: Workspace, name: str, files: Files) -> Rehearsal:
    argv = [sys.executable, "-m", "builder.rehearsal.serve", str(files.folder)]
    # Hides the engine from libraries in the new process; its broker reads the engine's URL from the settings.
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{files.folder / 'no-engine'}",
        "TMPDIR": str(files.folder),  # the only folder where this process can write
    }
    service = process.start_detached(argv, log=files.log, env=environment)
    until(lambda: bool(find(workspace, name)) or not service.runs(), timeout_s=_START_S, every_s=0.1)
    found = find(workspace, name)
    if found is None:
        output = files.log.read_text(encoding="utf-8", errors="replace")
        last = "\n".join(output.splitlines()[-20:])
        raise MissingError(f"the rehearsal '{name}' did not start", hint=f"see {files.log}", details=last)
    return found


def down(workspace: Workspace, name: str, *, engine_url: str) -> bool:
    """Stop a rehearsal and remove its containers, images and folder; return False if there was none."""
    with locked(workspace, f"rehearsal-{name}"):
        files = files_of(workspace, name)
        running = find(workspace, name)
        if not files.folder.exists():
            return False
        if running:
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)
            if not until(lambda: not _is_alive(files), timeout_s=_END_S, every_s=0.1):
                raise FactoryError(
                    f"the rehearsal '{name}' (process {running.pid}) did not stop in {_END_S:.0f} s",
                    hint=f"see {files.log}",
                )
        sweep(Engine(engine_url), session_of(files))
        shutil.rmtree(files.folder)
        return True


def _down(name: str) -> str:
    return f"builder rehearse down --name {name}"


def dead(workspace: Workspace) -> list[str]:
    """Return the names of rehearsals whose process has ended."""
    return [name for name in names(workspace) if not _is_alive(files_of(workspace, name))]


def sweep_dead(workspace: Workspace, *, engine_url: str) -> list[str]:
    """Remove the leftovers of all dead rehearsals; return their names."""
    swept = dead(workspace)
    for name in swept:
        down(workspace, name, engine_url=engine_url)
    return swept
