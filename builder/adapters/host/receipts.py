"""Store receipts as versioned JSON: one in each run's folder, and the newest of each key for later builds."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.adapters.host.checkout import commit_of
from builder.adapters.host.workspace import Run, Workspace, write_atomically
from builder.model import Artifact, Check, LayerResult, Plan, Publication, Receipt, Report
from builder.plan import to_json

FORMAT = 1


class Receipts:
    """Receipts of one checkout; `run` is required only by `record`."""

    def __init__(self, workspace: Workspace, *, root: Path, run: Run | None = None) -> None:
        self._folder = workspace.out / "receipts"
        self._root = root
        self._run = run

    def find(self, plan: Plan) -> Receipt | None:
        """Return the receipt of this plan; None if there is no receipt or if the checks have changed."""
        table = read(self._folder / plan.target.name / f"{plan.key}.json")
        if table is None or table["plan"]["checks"] != plan.checks:
            return None
        return _receipt(table, plan)

    def last_layers(self, target: str) -> dict[str, dict[str, Any]]:
        """Return the layers of a target's newest receipt, by name; empty without a receipt."""
        table = newest(self._folder.parent, target)
        return {layer["name"]: layer for layer in table["plan"]["layers"]} if table else {}

    def record(
        self,
        plan: Plan,
        artifact: Artifact,
        report: Report | None,
        publications: tuple[Publication, ...],
    ) -> Receipt:
        assert self._run is not None
        receipt = Receipt(
            run=self._run.name,
            created=now(),
            commit=commit_of(self._root),
            plan=plan,
            artifact=artifact,
            report=report,
            publications=publications,
        )
        text = json.dumps(as_json(receipt), indent=2, sort_keys=True) + "\n"
        write_atomically(self._run.folder / f"receipt-{plan.target.name}.json", text)
        write_atomically(self._folder / plan.target.name / f"{plan.key}.json", text)
        return receipt


def references(out: Path) -> frozenset[str]:
    """Return the engine image IDs and AMI IDs of all receipts of a checkout."""
    tables = (read(path) for path in (out / "receipts").glob("*/*.json"))
    return frozenset(str(table["artifact"]["reference"]) for table in tables if table)


def of_reference(out: Path, reference: str) -> dict[str, Any] | None:
    """Return the JSON of the receipt with this engine image ID or AMI ID, or None."""
    tables = (read(path) for path in sorted((out / "receipts").glob("*/*.json")))
    return next((table for table in tables if table and table["artifact"]["reference"] == reference), None)


def newest(out: Path, target: str) -> dict[str, Any] | None:
    """Return the JSON of a target's newest receipt, or None."""
    paths = sorted((out / "receipts" / target).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return read(paths[-1]) if paths else None


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def as_json(receipt: Receipt) -> dict[str, Any]:
    table = dataclasses.asdict(receipt)
    return {"format": FORMAT, **table, "plan": to_json(receipt.plan)}


def read(path: Path) -> dict[str, Any] | None:
    """Return the JSON of a receipt; None if the file is missing, damaged or of another format."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return table if isinstance(table, dict) and table.get("format") == FORMAT else None


def _receipt(table: Mapping[str, Any], plan: Plan) -> Receipt:
    artifact = dict(table["artifact"])
    artifact["layers"] = tuple(
        LayerResult(**{**layer, "components": tuple(layer["components"])}) for layer in artifact["layers"]
    )
    report = table["report"]
    return Receipt(
        run=table["run"],
        created=table["created"],
        commit=table["commit"],
        plan=plan,
        artifact=Artifact(**artifact),
        report=report and Report(**{**report, "checks": tuple(Check(**check) for check in report["checks"])}),
        publications=tuple(
            Publication(**{**entry, "tags": tuple(entry["tags"])}) for entry in table["publications"]
        ),
    )
