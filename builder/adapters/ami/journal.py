"""What runs make in an account, written down before it is made: one file for each run, lines are only added.

A run that is killed leaves its file; the janitor reads there where to look, and which things are complete.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from builder.adapters.aws.account import Account
from builder.adapters.host.receipts import now
from builder.adapters.host.workspace import Run, Workspace

_BEGUN, _KEPT, _GONE = "begun", "kept", "gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """Something that a run has made or was about to; `id` is known once it is complete."""

    kind: str  # key-pair, instance, security-group, image, copy
    name: str
    region: str
    place: str
    out: str  # where the run's checkout keeps its receipts
    id: str = ""


@dataclass
class Making:
    """Filled in by who makes the thing, as soon as EC2 has said what it is called."""

    id: str = ""


def folder_of(workspace: Workspace) -> Path:
    return workspace.home / "journal"


def path_of(workspace: Workspace, run: str) -> Path:
    return folder_of(workspace) / f"{run}.ndjson"


@cache
def place_of(account: Account) -> str:
    """What tells one account from another: the address of a rehearsal, else the account's number."""
    return account.endpoint or account.number()


@contextmanager
def making(run: Run, account: Account, kind: str, name: str, *, region: str = "") -> Iterator[Making]:
    """Around the making of a thing that stays; where the block fails, it stays unexplained."""
    thing = _thing(run, account, kind, name, region)
    _write(run, _BEGUN, thing)
    made = Making()
    yield made
    _write(run, _KEPT, {**thing, "id": made.id})


@contextmanager
def temporary(run: Run, account: Account, kinds: Sequence[str], name: str) -> Iterator[Callable[[str], None]]:
    """Records resources that are deleted by the end of the block; on an error their entries stay open.

    Yields a function that keeps the entry of one kind open, for a resource that could not be deleted.
    """
    things = [_thing(run, account, kind, name, "") for kind in kinds]
    kept: set[str] = set()
    with ExitStack() as stack:
        for thing in things:
            _write(run, _BEGUN, thing)
        yield kept.add
        for thing in things:
            if thing["kind"] not in kept:
                stack.callback(_write, run, _GONE, thing)


def note(run: Run, account: Account, kind: str, name: str) -> None:
    """A thing that somebody else is about to make for the run."""
    _write(run, _BEGUN, _thing(run, account, kind, name, ""))


def _thing(run: Run, account: Account, kind: str, name: str, region: str) -> dict[str, Any]:
    place = {"region": region or account.region, "place": place_of(account), "out": str(run.workspace.out)}
    return {"kind": kind, "name": name, **place}


_writing = threading.Lock()


def _write(run: Run, event: str, thing: dict[str, Any]) -> None:
    """On the disk before anything else happens; the first line brings the file's name there as well."""
    path = path_of(run.workspace, run.name)
    line = json.dumps({"at": now(), "event": event, **thing}) + "\n"
    with _writing:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def read(workspace: Workspace, run: str) -> list[Thing]:
    """What may still be there of a run: what was begun and is not known to be gone; complete ones have an id.

    The last line of a run that was killed may be a part of one: what it was about had not begun.
    """
    found: dict[tuple[str, str, str], Thing] = {}
    try:
        lines = path_of(workspace, run).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            table = json.loads(line)
        except ValueError:
            continue
        event, _ = table.pop("event"), table.pop("at")
        thing = Thing(**table)
        key = (thing.kind, thing.name, thing.region)
        if event == _GONE:
            found.pop(key, None)
        else:
            found[key] = thing
    return list(found.values())


def runs(workspace: Workspace) -> list[str]:
    """Runs of which there is a journal: they may have left something, or are at it."""
    return sorted(path.stem for path in folder_of(workspace).glob("*.ndjson"))


def forget(workspace: Workspace, run: str) -> None:
    """Everything of the run is gone or accounted for."""
    path_of(workspace, run).unlink(missing_ok=True)
