"""Rules of rehearsed AWS accounts: conversion to JSON, and the options of `builder rehearse up` for rules."""

import json
from pathlib import Path

import pytest

from builder.cli.main import main
from builder.errors import UsageError
from builder.rehearsal.rules import Rules


def test_rules_are_restored_from_their_json_table() -> None:
    rules = Rules(pending_s=1.0, denied_regions=("us-west-2",), policy={"Statement": []})
    assert Rules.from_table(json.loads(json.dumps(rules.as_table()))) == rules
    with pytest.raises(UsageError, match="unknown keys: inside"):
        Rules.from_table({"inside": True})


@pytest.mark.parametrize(
    ("text", "expected", "code"),
    [
        (None, "--policy: no file", 3),
        ("{", "is not an IAM policy", 2),
        ("[]", "is not an IAM policy: Statement must be a list of JSON objects", 2),
        ('{"Statement": ["x"]}', "is not an IAM policy", 2),
        ("[" * 100_000, "nested more than", 2),
        (
            '{"Statement": [{"Effect": "Allow", "Action": "*", "Condition": {"Null": {"a": "b"}}}]}',
            "condition operator 'Null' cannot be evaluated",
            2,
        ),
    ],
)
def test_an_unusable_policy_is_refused_before_a_rehearsal_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, expected: str, code: int
) -> None:
    path = tmp_path / "policy.json"
    if text is not None:
        path.write_text(text)
    assert main(["rehearse", "up", "--policy", str(path)]) == code
    assert expected in capsys.readouterr().err
