"""The JSON object with the result or error of a command, which `--json` prints.

docs/reference/output.schema.json describes it; a change that could break a reader increments FORMAT.
"""

import json

from builder.errors import FactoryError, without_logins

FORMAT = 1


def envelope(
    command: str,
    *,
    result: object = None,
    exit_code: int = 0,
    error: FactoryError | None = None,
    indent: int | None = 2,
) -> str:
    """Return the JSON of a command's result, without logins in URLs; one line if `indent` is None."""
    failure = error and {
        "message": error.message,
        "details": error.details.splitlines(),
        "hint": error.hint,
    }
    content = {
        "format": FORMAT,
        "command": command,
        "exit_code": exit_code,
        "error": failure,
        "result": result,
    }
    return without_logins(json.dumps(content, indent=indent))
