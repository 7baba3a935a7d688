"""Calls to AWS as values: what a request asks for, whether it changes anything, and what goes wrong with it.

Reads the wire formats of EC2 (query), the JSON services and REST; knows no server and no client.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, urlsplit

from builder.errors import UsageError

_READING = ("Describe", "Get", "List", "BatchGet", "BatchCheck", "Lookup", "Search", "Simulate", "Head")
# They begin like changes and change nothing.
_HARMLESS = frozenset({"AssumeRole", "DecodeAuthorizationMessage"})
_WHEN = ("", "before", "after")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One request and what became of it; `disturbed` says what was done to it."""

    number: int
    service: str
    action: str
    region: str
    mutating: bool
    parameters: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    error: str = ""
    started_s: float = 0.0
    seconds: float = 0.0
    disturbed: str = ""

    def as_table(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Disturbance:
    """What goes wrong with calls that match; the parts that are set happen in this order.

    It meets `count` calls from the `first` that matches, all of them if `count` is 0.
    """

    service: str = "*"
    action: str = "*"
    region: str = "*"
    mutating: bool | None = None
    first: int = 1
    count: int = 1
    delay_s: float = 0.0
    kill: str = ""  # before or after the call is carried out; with `drop` before, it is not
    pid: int = 0  # of a process, negative of a group
    signal: str = "SIGKILL"
    callback: Callable[[Call], None] | None = None  # in place of a signal
    drop: str = ""  # before: the connection ends unheard; after: it is done and the answer is lost
    status: int = 0
    code: str = ""  # AWS's; answered in place of the true answer
    message: str = "a disturbance of the rehearsal"
    replace: tuple[str, str] | None = None  # a pattern in the answer, and what stands there instead

    def __post_init__(self) -> None:
        for name in ("kill", "drop"):
            if getattr(self, name) not in _WHEN:
                raise UsageError(
                    f"{name} is 'before' or 'after', not {getattr(self, name)!r}", hint="choose one"
                )
        if self.kill and not (abs(self.pid) > 1 or self.callback):  # 0, 1 and -1 are more than one process
            raise UsageError("kill needs a pid or a callback", hint="a negative pid means a group")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Disturbance":
        unknown = set(table) - (set(cls.__dataclass_fields__) - {"callback"})
        if unknown:
            raise UsageError(
                f"unknown in a disturbance: {', '.join(sorted(unknown))}",
                hint=f"there is: {', '.join(sorted(cls.__dataclass_fields__))}",
            )
        replace = table.get("replace")
        return cls(**{**table, "replace": tuple(replace) if replace else None})

    def meets(self, call: Call) -> bool:
        return (
            fnmatchcase(call.service, self.service)
            and fnmatchcase(call.action, self.action)
            and fnmatchcase(call.region, self.region)
            and self.mutating in (None, call.mutating)
        )


def read_call(number: int, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Call:
    service, region = _scope(headers.get("Authorization", ""))
    form = _form(headers, path, body)
    target = headers.get("X-Amz-Target", "")
    action = target.rpartition(".")[2] or form.pop("Action", "") or f"{method} {urlsplit(path).path}"
    parameters = _json(body) if target else form
    parameters.pop("Version", None)
    is_rest = " " in action
    harmless = method in ("GET", "HEAD") if is_rest else action.startswith(_READING) or action in _HARMLESS
    return Call(
        number=number,
        service=service,
        action=action,
        region=region,
        mutating=not harmless and parameters.get("DryRun", "").lower() != "true",
        parameters=parameters,
    )


def _scope(authorization: str) -> tuple[str, str]:
    """(service, region) that a request was signed for."""
    _, found, rest = authorization.partition("Credential=")
    words = rest.split(",")[0].split("/")
    return (words[3], words[2]) if found and len(words) == 5 else ("", "")


def _form(headers: Mapping[str, str], path: str, body: bytes) -> dict[str, str]:
    is_form = headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
    text = body.decode(errors="replace") if is_form else urlsplit(path).query
    return {key: values[-1] for key, values in parse_qs(text, keep_blank_values=True).items()}


def _json(body: bytes) -> dict[str, str]:
    try:
        table = json.loads(body or b"{}")
    except ValueError:
        return {}
    if not isinstance(table, dict):
        return {}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in table.items()}


def error_body(call: Call, code: str, message: str) -> tuple[str, bytes]:
    """(content type, body) of an error as the called service words it."""
    if call.service == "ec2":
        text = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        return "text/xml", f"{text}<RequestID>rehearsal</RequestID></Response>".encode()
    if call.service in ("iam", "sts"):
        text = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        return "text/xml", f"<ErrorResponse>{text}<RequestId>rehearsal</RequestId></ErrorResponse>".encode()
    return "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message}).encode()
