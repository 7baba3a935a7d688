"""What a play said: which role changed what, how long it took, why it failed."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class RoleResult:
    """What one role did in one play."""

    name: str
    seconds: float = 0.0
    ok: int = 0
    changed: list[str] = field(default_factory=list)


@dataclass
class Play:
    """Reads the lines of `factory_events`; `say` gets what a person wants to follow."""

    say: Callable[[str], None]
    # Gets "role : task" when a task begins.
    watch: Callable[[str], None] = lambda _: None
    roles: dict[str, RoleResult] = field(default_factory=dict)
    failure: dict[str, str] | None = None
    code: int = 0
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    changes: int = 0
    _since: float = field(default_factory=time.monotonic)
    _role: str = ""

    def line(self, text: str) -> None:
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        if not isinstance(said, dict) or "event" not in said:
            self.say(text)
            return
        role = said.get("role", "")
        if role and role != self._role:
            self._turn(role)
        where = f"{role} : {said.get('task', '')}".strip(" :")
        if said["event"] == "task":
            self.watch(where)
        elif said["event"] == "result":
            self._count(role, said)
            self.changes += bool(said.get("changed"))
            state = "changed" if said.get("changed") else "skipped" if said.get("skipped") else "ok"
            self.say(f"{state:8} {said.get('seconds', 0):6.1f} s  {where}")
        elif said["event"] == "failed":
            self.failure = self.failure or said
            self.say(f"FAILED {where}: {said['message']}\n{said.get('details', '')}".rstrip())

    def end(self, code: int) -> None:
        self._turn("")
        self.code = code
        self.seconds = time.monotonic() - self.started

    @property
    def passed(self) -> bool:
        return self.code == 0 and self.failure is None

    @property
    def changed(self) -> list[str]:
        return [f"{role.name} : {task}" for role in self.roles.values() for task in role.changed]

    def _turn(self, role: str) -> None:
        now = time.monotonic()
        if self._role:
            self.roles.setdefault(self._role, RoleResult(self._role)).seconds += now - self._since
        self._role, self._since = role, now

    def _count(self, role: str, said: dict[str, object]) -> None:
        if not role:
            return
        result = self.roles.setdefault(role, RoleResult(role))
        result.ok += 1
        if said.get("changed"):
            result.changed.append(str(said.get("task", "")))
