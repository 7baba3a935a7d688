"""Findings as SARIF, which code hosts show beside the lines of a change."""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from builder.lint.model import Finding, Rule

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_VERSION = _SCHEMA.rpartition("-")[2].removesuffix(".json")


def sarif(findings: Sequence[Finding], rules: Sequence[Rule], *, version: str) -> str:
    """Return a SARIF log with one run; paths are relative to the current folder if possible."""
    driver = {
        "name": "builder lint",
        "version": version,
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": rule.why},
                "help": {"text": rule.fix},
                "defaultConfiguration": {"level": "warning"},
            }
            for rule in rules
        ],
    }
    index = {rule.id: number for number, rule in enumerate(rules)}
    results = [
        {
            "ruleId": finding.rule.id,
            "ruleIndex": index[finding.rule.id],
            "level": "warning",
            "message": {"text": f"{finding.message}. {finding.rule.fix}"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": _location(finding.path),
                        "region": {"startLine": finding.line},
                    }
                }
            ],
        }
        for finding in findings
    ]
    runs = [{"tool": {"driver": driver}, "results": results}]
    return json.dumps({"$schema": _SCHEMA, "version": _VERSION, "runs": runs}, indent=2)


def _location(path: str) -> dict[str, str]:
    if PurePosixPath(path).is_absolute():
        return {"uri": f"file://{quote(path)}"}
    return {"uri": quote(path), "uriBaseId": "%SRCROOT%"}
