"""Calls to AWS as values, and the disturbances that can be injected into them.

Parses the wire formats of EC2 (query), the JSON services and REST; knows no server and no client.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, urlsplit

from builder.errors import UsageError

READING = ("Describe", "Get", "List", "BatchGet", "BatchCheck", "Lookup", "Search", "Simulate", "Head")
# Actions without side effects whose names do not begin with a prefix in READING.
_HARMLESS = frozenset({"AssumeRole", "DecodeAuthorizationMessage"})
# Actions of RAM by the path of their REST request, which is always a POST.
_RAM = {
    "/associateresourceshare": "AssociateResourceShare",
    "/createresourceshare": "CreateResourceShare",
    "/deleteresourceshare": "DeleteResourceShare",
    "/getresourceshareassociations": "GetResourceShareAssociations",
    "/getresourceshares": "GetResourceShares",
}
_WHEN = ("", "before", "after")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request to AWS and its result; `disturbed` is "disturbed" or "dropped" if a fault was injected."""

    number: int
    service: str
    action: str
    region: str
    mutating: bool
    parameters: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    error: str = ""
    started_s: float = 0.0
    access_key: str = ""  # its public id, which tells the caller's account
    seconds: float = 0.0
    disturbed: str = ""

    def as_table(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Disturbance:
    """Faults to inject into matching calls, in the order of the fields.

    Applies to `count` matching calls starting with number `first`, or to all later calls if `count` is 0.
    """

    service: str = "*"
    action: str = "*"
    region: str = "*"
    mutating: bool | None = None
    first: int = 1
    count: int = 1
    delay_s: float = 0.0
    kill: str = ""  # send the signal "before" or "after" the call is executed
    pid: int = 0  # a process, or a process group if negative
    signal: str = "SIGKILL"
    callback: Callable[[Call], None] | None = None  # called instead of sending a signal
    drop: str = ""  # "before": close the connection, do not execute the call; "after": drop the answer
    status: int = 0
    code: str = ""  # AWS error code to answer with instead of executing the call
    message: str = "a disturbance of the rehearsal"
    replace: tuple[str, str] | None = None  # regular expression for the answer, and its replacement

    def __post_init__(self) -> None:
        for name in ("kill", "drop"):
            if getattr(self, name) not in _WHEN:
                raise UsageError(
                    f"disturbance: {name}: {getattr(self, name)!r} is neither 'before' nor 'after'",
                    hint=f"set {name} to 'before' or 'after'",
                )
        if self.kill and not (abs(self.pid) > 1 or self.callback):  # 0 and -1 mean many processes, 1 is init
            raise UsageError(
                f"disturbance: kill needs a pid or a callback, pid is {self.pid}",
                hint="set pid to a process ID, or to a negative process group ID",
            )

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Disturbance":
        unknown = set(table) - (set(cls.__dataclass_fields__) - {"callback"})
        if unknown:
            raise UsageError(
                f"disturbance: unknown keys: {', '.join(sorted(unknown))}",
                hint=f"use: {', '.join(sorted(cls.__dataclass_fields__))}",
            )
        replace = table.get("replace")
        return cls(**{**table, "replace": tuple(replace) if replace else None})

    def matches(self, call: Call) -> bool:
        return (
            fnmatchcase(call.service, self.service)
            and fnmatchcase(call.action, self.action)
            and fnmatchcase(call.region, self.region)
            and self.mutating in (None, call.mutating)
        )


def read_call(number: int, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Call:
    service, region, access_key = _scope(headers.get("Authorization", ""))
    form = _form(headers, path, body)
    target = headers.get("X-Amz-Target", "")
    of_ram = _RAM.get(urlsplit(path).path, "") if service == "ram" else ""
    action = (
        target.rpartition(".")[2] or form.pop("Action", "") or of_ram or f"{method} {urlsplit(path).path}"
    )
    parameters = _json(body) if target or (of_ram and body) else form
    parameters.pop("Version", None)
    is_rest = " " in action
    harmless = method in ("GET", "HEAD") if is_rest else action.startswith(READING) or action in _HARMLESS
    return Call(
        number=number,
        service=service,
        action=action,
        region=region,
        mutating=not harmless and parameters.get("DryRun", "").lower() != "true",
        parameters=parameters,
        access_key=access_key,
    )


def _scope(authorization: str) -> tuple[str, str, str]:
    """Return the (service, region, access key) that a request was signed with."""
    _, found, rest = authorization.partition("Credential=")
    words = rest.split(",")[0].split("/")
    return (words[3], words[2], words[0]) if found and len(words) == 5 else ("", "", "")


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
    """Return (content type, body) of an error in the format of the called service."""
    if call.service == "ec2":
        text = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        return "text/xml", f"{text}<RequestID>rehearsal</RequestID></Response>".encode()
    if call.service in ("iam", "sts"):
        text = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        return "text/xml", f"<ErrorResponse>{text}<RequestId>rehearsal</RequestId></ErrorResponse>".encode()
    return "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message}).encode()
