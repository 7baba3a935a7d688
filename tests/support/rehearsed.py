"""Call `builder rehearse` in tests, and list the containers and images that it leaves in the engine."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Workspace
from builder.marks import REHEARSAL_LABEL
from builder.rehearsal.session import files_of, find, session_of
from tests.support.rehearsal import ROOT, Clients

BOUND_S = 600


def brokers_of(pid: int) -> list[int]:
    """Return the PIDs of the rehearsal brokers that are child processes of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"builder.rehearsal.ec2.broker" in path.joinpath("cmdline").read_bytes():
                found.append(int(path.name))
    return found


def unix_sockets_of(pid: int) -> set[str]:
    """Return the Unix sockets that a process has open, as `socket:[INODE]`."""
    lines = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    open_files = (str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())
    return {f"socket:[{line.split()[6]}]" for line in lines} & set(open_files)


@dataclass(frozen=True)
class Program:
    home: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(home=self.home, out=ROOT / "out")

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "builder.cli.main", "rehearse", *words],
            env=os.environ | {"BUILDER_HOME": str(self.home), "NO_COLOR": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )

    def up(self, name: str, *words: str) -> str:
        done = self.call("up", "--name", name, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def aws(self, name: str) -> Clients:
        """Return AWS clients for a running rehearsal."""
        found = find(self.workspace, name)
        assert found
        return Clients(found.endpoint, found.key)

    def ready(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.folder(name).joinpath("ready.json").read_text())
        return found

    def folder(self, name: str) -> Path:
        return files_of(self.workspace, name).folder

    def session(self, name: str) -> str:
        return session_of(files_of(self.workspace, name))

    def containers(self, name: str) -> list[dict[str, Any]]:
        return Engine().containers(f"{REHEARSAL_LABEL}={self.session(name)}")

    def left(self, name: str) -> list[str]:
        """Return the containers and images in the engine that belong to a rehearsal."""
        engine = Engine()
        tagged = engine.images(reference=f"factory-rehearsal/{self.session(name)}")
        untagged = [
            image.id for image in engine.labelled(f"{REHEARSAL_LABEL}={self.session(name)}") if not image.tags
        ]
        return [
            *(str(container["Names"]) for container in self.containers(name)),
            *(tag for image in tagged for tag in image.tags),
            *untagged,
        ]
