"""Journal of the resources that runs create in an account: one append-only file per run.

An entry is written before its resource is created. The file of a run that was killed tells the janitor which
regions to search and which images are complete.
"""

import datetime
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
from builder.adapters.host.workspace import Run, Workspace, is_run_name

_BEGUN, _KEPT, _GONE = "begun", "kept", "gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A resource that a run has created or was about to create; `id` is set once the resource is complete."""

    kind: str  # key-pair, instance, security-group, image, copy
    name: str
    region: str
    account_id: str
    out: str  # folder with the receipts of the run's checkout
    id: str = ""


@dataclass
class Creation:
    """A resource that is being created; the caller sets `id` as soon as EC2 has returned it."""

    id: str = ""


def folder_of(workspace: Workspace) -> Path:
    return workspace.home / "journal"


def path_of(workspace: Workspace, run: str) -> Path:
    return folder_of(workspace) / f"{run}.ndjson"


@cache
def account_id_of(account: Account) -> str:
    """Return a key that is unique to the account: the endpoint of a rehearsal, or the AWS account id."""
    return account.endpoint or account.account_id()


@contextmanager
def permanent(run: Run, account: Account, kind: str, name: str, *, region: str = "") -> Iterator[Creation]:
    """Record the creation of a resource that is kept; on an error its entry stays open, without an id."""
    fields = _fields(run, account, kind, name, region)
    _write(run, _BEGUN, fields)
    created = Creation()
    yield created
    _write(run, _KEPT, {**fields, "id": created.id})


@contextmanager
def temporary(run: Run, account: Account, kinds: Sequence[str], name: str) -> Iterator[Callable[[str], None]]:
    """Record resources that are deleted by the end of the block; on an error their entries stay open.

    Yields a function that takes a kind and keeps its entry open, for a resource that could not be deleted.
    """
    entries = [_fields(run, account, kind, name, "") for kind in kinds]
    kept: set[str] = set()
    with ExitStack() as stack:
        for fields in entries:
            _write(run, _BEGUN, fields)
        yield kept.add
        for fields in entries:
            if fields["kind"] not in kept:
                stack.callback(_write, run, _GONE, fields)


def open_entry(run: Run, account: Account, kind: str, name: str) -> None:
    """Record a resource that another program is about to create for the run."""
    _write(run, _BEGUN, _fields(run, account, kind, name, ""))


def _fields(run: Run, account: Account, kind: str, name: str, region: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "region": region or account.region,
        "place": account_id_of(account),  # "place" is the key of the account in journal files
        "out": str(run.workspace.out),
    }


_writing = threading.Lock()


def _write(run: Run, event: str, fields: dict[str, Any]) -> None:
    """Append a line and sync it to disk; sync the folder as well when the file is new."""
    path = path_of(run.workspace, run.name)
    line = json.dumps({"at": now(), "event": event, **fields}) + "\n"
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


def read(workspace: Workspace, run: str) -> list[Entry]:
    """Return a run's entries, except those of deleted resources; entries of complete resources have an id.

    A killed run may leave a partial last line, which is ignored: its resource was never requested.
    """
    found: dict[tuple[str, str, str], Entry] = {}
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
        entry = Entry(account_id=table.pop("place"), **table)
        key = (entry.kind, entry.name, entry.region)
        if event == _GONE:
            found.pop(key, None)
        else:
            found[key] = entry
    return list(found.values())


def begun(workspace: Workspace, run: str) -> datetime.datetime | None:
    """Return when the journal began, before the first resource of its run; None if it is unreadable."""
    try:
        with path_of(workspace, run).open(encoding="utf-8") as file:
            moment = datetime.datetime.fromisoformat(json.loads(file.readline())["at"])
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        return None
    return moment if moment.tzinfo else None


def runs(workspace: Workspace) -> list[str]:
    """Return the names of all runs with a journal, running or dead; other files are ignored."""
    found = (path.stem for path in folder_of(workspace).glob("*.ndjson"))
    return sorted(name for name in found if is_run_name(name))


def delete(workspace: Workspace, run: str) -> None:
    """Delete a run's journal, once each of its resources is deleted or has a receipt."""
    path_of(workspace, run).unlink(missing_ok=True)
