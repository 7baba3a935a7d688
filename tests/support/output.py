"""Parse and validate the output of `builder COMMAND --json` with the committed JSON schema."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parents[2] / "docs/reference/output.schema.json"


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def envelope_of(text: str) -> Any:
    """Return the JSON envelope that a command printed; fail if it does not match the schema."""
    envelope = json.loads(text)
    _validator().validate(envelope)
    return envelope


def result_of(text: str) -> Any:
    """Return the `result` field of the JSON envelope that a command printed."""
    return envelope_of(text)["result"]
