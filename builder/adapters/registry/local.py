"""The registry on this machine, for builds that have no other."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from builder.adapters.host import process
from builder.adapters.host.workspace import Workspace, locked
from builder.errors import MissingError

_START_S = 20.0


def _folder(workspace: Workspace) -> Path:
    return workspace.home / "registry"


def _state(workspace: Workspace) -> dict[str, object]:
    try:
        state = json.loads((_folder(workspace) / "ready.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def find(workspace: Workspace) -> str:
    """Where the registry listens; "" if it does not run."""
    state = _state(workspace)
    return str(state["host"]) if state and _runs(int(str(state["pid"]))) else ""


def _runs(pid: int) -> bool:
    """Whether the process is still ours: numbers are used again."""
    try:
        return b"builder.rehearsal.registry.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def ensure_up(workspace: Workspace) -> str:
    with locked(workspace, "registry"):
        # The port of the last time first, so that names which were printed stay valid.
        last = str(_state(workspace).get("host", "")).rpartition(":")[2] or "0"
        return find(workspace) or _start(workspace, last) or _start(workspace, "0") or _refuse(workspace)


def _start(workspace: Workspace, port: str) -> str:
    """Where it listens; "" if it could not start."""
    folder = _folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "builder.rehearsal.registry.server", "--folder", str(folder / "data")]
    runs = process.start_detached([*argv, "--port", port, "--ready-file", str(ready)], log=folder / "log.txt")
    process.wait_until(lambda: bool(find(workspace)) or not runs(), timeout_s=_START_S)
    return find(workspace)


def _refuse(workspace: Workspace) -> NoReturn:
    raise MissingError("the local registry did not start", hint=f"see {_folder(workspace) / 'log.txt'}")


def stop(workspace: Workspace) -> None:
    pid = int(str(_state(workspace)["pid"]))
    os.kill(pid, signal.SIGTERM)
    process.wait_until(lambda: not find(workspace), timeout_s=_START_S)
