"""Journal of the resources that runs create in an account: one append-only file per run.

An entry is written before its resource is created. The file of a run that was killed tells the janitor which
regions to search and which images are complete.
"""

import datetime
import errno
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from builder.adapters.aws.account import Account
from builder.adapters.host.receipts import now
from builder.adapters.host.workspace import Run, Workspace, is_run_name, sync_folder, write_atomically
from builder.errors import MissingError, naming
from builder.reading import read_bytes

_LARGEST = 64 << 20  # bytes of a journal
_BEGUN, _KEPT, _GONE, _HELD = "begun", "kept", "gone", "held"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A resource that a run has created or was about to create; `id` is set once the resource is complete."""

    kind: str  # key-pair, instance, security-group, launch-template, fleet, checkpoint, image, copy
    name: str
    region: str
    account_id: str
    out: str  # folder with the receipts of the run's checkout
    id: str = ""
    is_held: bool = False  # kept after a failure, with the key pair and the group of its name


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
    """Return a string that identifies the account: the endpoint of a rehearsal, or the AWS account id."""
    return account.endpoint or account.account_id()


@contextmanager
def permanent(run: Run, account: Account, kind: str, name: str, *, region: str = "") -> Iterator[Creation]:
    """Record the creation of a resource that is kept; on an error, the journal entry stays open."""
    fields = _fields(run, account, kind, name, region)
    _write(run, _BEGUN, fields)
    created = Creation()
    yield created
    _write(run, _KEPT, {**fields, "id": created.id})


@contextmanager
def temporary(run: Run, account: Account, kinds: Sequence[str], name: str) -> Iterator[Callable[[str], None]]:
    """Record resources that are deleted by the end of the block; on an error their journal entries stay open.

    Yields a function that keeps the entry of a kind open, for a resource that could not be deleted.
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


def hold(run: Run, account: Account, name: str, instance: str) -> None:
    """Record an instance that is kept after a failure; its key pair and security group have the same name."""
    _write(run, _HELD, {**_fields(run, account, "instance", name, ""), "id": instance})


def held_folder(workspace: Workspace, run: str) -> Path:
    """Return the folder for the SSH keys of a run's kept instances; `delete` removes the folder."""
    return folder_of(workspace) / run


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
    """Append a line to a journal and sync it to disk; sync the folder as well when the file is new."""
    path = path_of(run.workspace, run.name)
    line = json.dumps({"at": now(), "event": event, **fields}) + "\n"
    with _writing:
        run.workspace.folder("journal")
        is_new = not path.exists()
        with naming(path), path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line.encode()) < len(line.encode()):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)  # else the next line would continue a partial one
                raise
        if is_new:
            sync_folder(path.parent)


def close(workspace: Workspace, run: str, entries: Iterable[Entry]) -> None:
    """Record in a run's journal that resources are deleted; remove a partial last line of the journal."""
    path = path_of(workspace, run)
    with _writing:
        text = path.read_text(encoding="utf-8")
        lines = [text[: text.rfind("\n") + 1]]
        for entry in entries:
            fields = {"kind": entry.kind, "name": entry.name, "region": entry.region}
            more = {"place": entry.account_id, "out": entry.out}
            lines.append(json.dumps({"at": now(), "event": _GONE, **fields, **more}) + "\n")
        write_atomically(path, "".join(lines))


def read(workspace: Workspace, run: str) -> list[Entry]:
    """Return a run's journal entries without those of deleted resources; complete resources have an id.

    A killed run may leave a partial last line, which is ignored: its resource was never requested. Raises
    MissingError if another line cannot be read, because it may concern any of the resources.
    """
    path = path_of(workspace, run)
    found: dict[tuple[str, str, str], Entry] = {}
    try:
        *lines, partial = read_bytes(path, largest=_LARGEST).split(b"\n")
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    for number, line in enumerate((*lines, partial), 1):
        try:
            event, entry = _parse(line)
        except (ValueError, RecursionError) as error:
            if number > len(lines):  # the partial line
                continue
            raise _unreadable(path, f"line {number}: {str(error)[:200]}") from error
        key = (entry.kind, entry.name, entry.region)
        if event == _GONE:
            found.pop(key, None)
        else:
            found[key] = entry
    return list(found.values())


def _parse(line: bytes) -> tuple[str, Entry]:
    """Return the event and the entry of a journal line; ignores keys that newer builders add."""
    table = json.loads(line)
    if not isinstance(table, dict):
        raise ValueError("not a JSON object")
    names = {"kind": "kind", "name": "name", "region": "region", "account_id": "place", "out": "out"}
    values = {field: table.get(key) for field, key in names.items()} | {"id": table.get("id", "")}
    event = table.get("event")
    if event not in (_BEGUN, _KEPT, _GONE, _HELD):
        raise ValueError(f"unknown event {event!r}")
    if wrong := [names.get(field, field) for field, value in values.items() if not isinstance(value, str)]:
        raise ValueError(f"key {wrong[0]!r} is missing or not a string")
    texts = {field: str(value) for field, value in values.items()}
    return event, Entry(**texts, is_held=event == _HELD)


def _unreadable(path: Path, problem: str) -> MissingError:
    return MissingError(
        f"{path}: {problem}",
        hint="use the version of builder that wrote the file; or remove what its run left in the account,"
        " then the file",
    )


def begun(workspace: Workspace, run: str) -> datetime.datetime | None:
    """Return the time of a journal's first entry, which predates the run's resources; None if unreadable."""
    try:
        with path_of(workspace, run).open(encoding="utf-8") as file:
            moment = datetime.datetime.fromisoformat(json.loads(file.readline())["at"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return moment if moment.tzinfo else None


def runs(workspace: Workspace) -> list[str]:
    """Return the names of all runs with a journal, running or dead; other files are ignored."""
    found = (path.stem for path in folder_of(workspace).glob("*.ndjson"))
    return sorted(name for name in found if is_run_name(name))


def delete(workspace: Workspace, run: str) -> None:
    """Delete a run's journal; the caller ensures that each resource is deleted or has a receipt."""
    import shutil

    shutil.rmtree(held_folder(workspace, run), ignore_errors=True)
    path_of(workspace, run).unlink(missing_ok=True)
