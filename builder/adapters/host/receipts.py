"""Store receipts as versioned JSON: one in each run's folder, and the newest receipt of each plan key."""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from builder.adapters.host.workspace import Run, Workspace, write_atomically
from builder.model import Artifact, Plan, Publication, Receipt, Report
from builder.plan import to_json
from builder.reading import UnreadableError, read_text
from builder.values import dataclass

FORMAT = 1
_LARGEST = 64 << 20  # bytes of a receipt


class Receipts:
    """Receipts of one checkout; `run` is required only by `record`."""

    def __init__(self, workspace: Workspace, *, root: Path, run: Run | None = None) -> None:
        self._folder = workspace.out / "receipts"
        self._root = root
        self._run = run

    def find(self, plan: Plan) -> Receipt | None:
        """Return the receipt of this plan; None if there is no receipt or if the checks have changed."""
        table = read(self._folder / plan.target.name / f"{plan.key}.json")
        try:
            stored = decode(_Stored, table)
        except ValueError:
            return None
        return _receipt(stored, plan) if stored.plan.checks == plan.checks else None

    def last_layers(self, target: str) -> dict[str, dict[str, Any]]:
        """Return the layers of a target's newest receipt, by name; empty without a receipt."""
        table = newest(self._folder.parent, target)
        return {layer["name"]: layer for layer in table.get("plan", {}).get("layers", ())} if table else {}

    def record(
        self,
        plan: Plan,
        artifact: Artifact,
        report: Report | None,
        publications: tuple[Publication, ...],
        *,
        seconds: float = 0.0,
    ) -> Receipt:
        # Imported late: commands that only read receipts need no processes.
        from builder.adapters.host.checkout import commit_of

        assert self._run is not None
        run, created = self._run.name, now()
        receipt = Receipt(
            run=run,
            created=created,
            commit=commit_of(self._root),
            plan=plan,
            artifact=artifact,
            report=report,
            publications=tuple(
                item if item.run else dataclasses.replace(item, run=run, created=created)
                for item in publications
            ),
            seconds=seconds,
        )
        text = json.dumps(as_json(receipt), indent=2, sort_keys=True) + "\n"
        write_atomically(self._run.folder / f"receipt-{plan.target.name}.json", text)
        write_atomically(self._folder / plan.target.name / f"{plan.key}.json", text)
        return receipt


def references(out: Path) -> frozenset[str]:
    """Return the engine image IDs and AMI IDs of all receipts of a checkout that can be read."""
    tables = (read(path) for path in (out / "receipts").glob("*/*.json"))
    return frozenset(table["artifact"]["reference"] for table in tables if table)


def unreadable(out: Path, target: str = "*") -> list[str]:
    """Return path and problem of each unreadable receipt, for all plan keys of a target."""
    kind = _Referring if target == "*" else _Stored
    found = ((path, _problem(path, kind)) for path in sorted((out / "receipts").glob(f"{target}/*.json")))
    return [f"{path}: {problem}" for path, problem in found if problem]


def of_reference(out: Path, reference: str) -> dict[str, Any] | None:
    """Return the JSON of the receipt with this engine image ID or AMI ID, or None."""
    tables = (read(path) for path in sorted((out / "receipts").glob("*/*.json")))
    return next((table for table in tables if table and table["artifact"]["reference"] == reference), None)


def system_tags(table: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the tags that the system of a receipt gives to published AMIs."""
    source = decode(_Referring, table).plan.system.ami
    return source.tags if source else {}


def newest(out: Path, target: str) -> dict[str, Any] | None:
    """Return the JSON of a target's newest receipt, or None."""
    return next(all_of(out, target), None)


def all_of(out: Path, target: str) -> Iterator[dict[str, Any]]:
    """Return the JSON of a target's receipts that can be read, newest first."""
    paths = sorted((out / "receipts" / target).glob("*.json"), key=lambda path: -path.stat().st_mtime)
    return (table for path in paths if (table := read(path)))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def as_json(receipt: Receipt) -> dict[str, Any]:
    table = dataclasses.asdict(receipt)
    return {"format": FORMAT, **table, "plan": to_json(receipt.plan)}


def read(path: Path) -> dict[str, Any] | None:
    """Return the JSON of a receipt; None if the file is missing, damaged or of another format."""
    try:
        table = _parse(path, _Referring)
    except (OSError, ValueError, RecursionError):
        return None
    return table


def _problem(path: Path, kind: type) -> str:
    try:
        _parse(path, kind)
    except FileNotFoundError:
        return ""
    except UnreadableError as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        return f"not a receipt of format {FORMAT}: {str(error)[:200]}"
    return ""


def _parse(path: Path, kind: type) -> dict[str, Any]:
    """Return the JSON of a receipt; raise ValueError if a key is missing or invalid.

    Keys that newer versions add are kept.
    """
    table = json.loads(read_text(path, largest=_LARGEST))
    if not isinstance(table, dict):
        raise ValueError("not a JSON object")
    if table.get("format") != FORMAT:
        raise ValueError(f"its format is {table.get('format')!r}")
    decode(kind, table)
    return table


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    name: str
    key: str
    parent: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _System:
    ami: _Source | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    checks: str = ""
    layers: tuple[_Layer, ...] = ()
    system: _System = field(default_factory=_System)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Artifact:
    reference: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    outcome: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Report:
    checks: tuple[_Check, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Referring:
    """JSON keys that commands read from the receipt of any plan."""

    artifact: _Artifact
    plan: _Plan = field(default_factory=_Plan)
    report: _Report | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """JSON keys that are needed to restore the receipt of a known plan."""

    run: str
    created: str
    commit: str
    plan: _Plan
    artifact: Artifact
    report: Report | None
    publications: tuple[Publication, ...]
    seconds: float = 0.0


def decode(kind: Any, value: Any) -> Any:
    """Convert a JSON value to the type `kind`; ignore unknown keys; raise ValueError if it does not fit."""
    if dataclasses.is_dataclass(kind):
        return _decode_object(kind, value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else decode(inner[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(decode(inner[0], item) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: decode(inner[1], item) for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise ValueError(f"{str(value)[:60]!r} is not of type {getattr(origin or kind, '__name__', kind)}")


def _decode_object(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:60]!r} is not an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"no key {missing[0]!r}")
    return kind(**{name: decode(field.type, value[name]) for name, field in fields.items() if name in value})


def _receipt(stored: _Stored, plan: Plan) -> Receipt:
    return Receipt(
        run=stored.run,
        created=stored.created,
        commit=stored.commit,
        plan=plan,
        artifact=stored.artifact,
        report=stored.report,
        publications=tuple(
            item if item.run else dataclasses.replace(item, run=stored.run, created=stored.created)
            for item in stored.publications
        ),
        seconds=stored.seconds,
    )
