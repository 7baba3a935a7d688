"""Files in the folder of a rehearsal: settings, state, and the lock that its process holds while it runs."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from builder.errors import UsageError
from builder.rehearsal.gate import SERVICES
from builder.rehearsal.rules import NEW_ACCOUNT, Rules
from builder.wait import until


@dataclass(frozen=True, slots=True)
class Files:
    """Paths in the folder of a rehearsal."""

    folder: Path

    @property
    def alive(self) -> Path:
        return self.folder / "alive"

    @property
    def settings(self) -> Path:
        return self.folder / "settings.json"

    @property
    def ready(self) -> Path:
        return self.folder / "ready.json"

    @property
    def calls(self) -> Path:
        return self.folder / "calls.ndjson"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def registries(self) -> Path:
        return self.folder / "ecr"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of the background process; `machines` maps each system to its machine image."""

    session: str
    engine_url: str
    account: Mapping[str, Any]
    machines: Mapping[str, str]
    services: tuple[str, ...] = SERVICES
    rules: Rules = NEW_ACCOUNT

    @classmethod
    def read(cls, path: Path) -> Self:
        table = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**table, "rules": Rules.from_table(table["rules"])})


@contextmanager
def hold(path: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a running rehearsal; the kernel releases it when the process ends."""
    with path.open("w") as file:
        if not until(lambda: _try_lock(file.fileno()), timeout_s=patience_s, every_s=0.1):
            raise UsageError(
                f"a rehearsal is already running in {path.parent}", hint="builder rehearse status"
            )
        yield


def _try_lock(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
