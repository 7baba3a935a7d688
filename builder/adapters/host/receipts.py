"""Receipts as versioned JSON: one per run in its folder, and the newest per key for the next build."""

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
    """The ledger of one checkout; `run` is needed only to record."""

    def __init__(self, workspace: Workspace, *, root: Path, run: Run | None = None) -> None:
        self._folder = workspace.out / "receipts"
        self._root = root
        self._run = run

    def find(self, plan: Plan) -> Receipt | None:
        """The receipt of exactly this plan, checks included."""
        table = read(self._folder / plan.target.name / f"{plan.key}.json")
        if table is None or table["plan"]["checks"] != plan.checks:
            return None
        return _receipt(table, plan)

    def last_layers(self, target: str) -> dict[str, dict[str, Any]]:
        """The layers of the newest receipt of a target, by name."""
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
    """What a checkout has receipts of, by what the engine or EC2 calls it."""
    tables = (read(path) for path in (out / "receipts").glob("*/*.json"))
    return frozenset(str(table["artifact"]["reference"]) for table in tables if table)


def of_reference(out: Path, reference: str) -> dict[str, Any] | None:
    """The JSON of the receipt of one artifact."""
    tables = (read(path) for path in sorted((out / "receipts").glob("*/*.json")))
    return next((one for one in tables if one and one["artifact"]["reference"] == reference), None)


def newest(out: Path, target: str) -> dict[str, Any] | None:
    """The JSON of the newest receipt of a target."""
    paths = sorted((out / "receipts" / target).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return read(paths[-1]) if paths else None


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def as_json(receipt: Receipt) -> dict[str, Any]:
    table = dataclasses.asdict(receipt)
    return {"format": FORMAT, **table, "plan": to_json(receipt.plan)}


def read(path: Path) -> dict[str, Any] | None:
    """A receipt's JSON; None for one that is missing, from another format, or not whole."""
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
            Publication(**{**one, "tags": tuple(one["tags"])}) for one in table["publications"]
        ),
    )
