"""The broker of a rehearsal: the only process of a rehearsal that uses the engine.

    python -m builder.rehearsal.ec2.broker FOLDER SSH_PORT

`brokered` describes the requests on stdin and the answers on stdout. The broker ends when stdin ends, so it
never outlives the rehearsal. It trusts no request: a request names instances, snapshots and addresses of this
rehearsal, and `EngineHosts` alone decides on containers, mounts, capabilities and networks.
"""

import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from builder.adapters.engine.client import Engine
from builder.errors import FactoryError, UsageError
from builder.rehearsal.addresses import require_loopback
from builder.rehearsal.ec2.brokered import LINE_LIMIT, VERSION
from builder.rehearsal.ec2.engine_hosts import EngineHosts
from builder.rehearsal.ec2.hosts import Launch
from builder.rehearsal.files import Files, Settings

Check = Callable[[Any], bool]


def _matches(pattern: str) -> Check:
    expression = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and bool(expression.fullmatch(value))


def _is_loopback(value: object) -> bool:
    with suppress(UsageError, ValueError):
        return isinstance(value, str) and "//" not in value and bool(require_loopback(value))
    return False


_CHECKS: Mapping[str, Check] = {
    "address": lambda value: value == "" or _is_loopback(value),  # "": an instance without a network
    "hostname": _matches(r"ip(-\d{1,3}){4}"),
    "image": _matches(r"[\w./:@-]{1,300}"),
    "instance": _matches(r"i-[0-9a-f]{8,32}"),
    "metadata": lambda value: isinstance(value, dict),
    "public_key": lambda value: isinstance(value, str),
    "reaches_internet": lambda value: isinstance(value, bool),
    "script": lambda value: isinstance(value, str),
    "snapshot": _matches(r"snap-[0-9a-f]{8,32}"),
    "source": _matches(r"snap-[0-9a-f]{8,32}"),
}
_LAUNCH = (
    *("instance", "snapshot", "address", "hostname", "metadata", "public_key", "reaches_internet"),
    "script",
)
_CALLS: Mapping[str, tuple[str, ...]] = {
    "take_address": (),
    "release_address": ("address",),
    "tag_snapshot": ("snapshot", "image"),
    "can_start": ("snapshot",),
    "launch": _LAUNCH,
    "stop": ("instance",),
    "start": ("instance", "address"),
    "reboot": ("instance", "address"),
    "remove": ("instance",),
    "update_metadata": ("instance", "metadata"),
    "capture": ("instance", "snapshot"),
    "copy": ("source", "snapshot"),
    "delete_snapshot": ("snapshot",),
    "sweep": (),
}


class Broker:
    """Answers the requests of one rehearsal, each in a thread of its own."""

    def __init__(self, hosts: EngineHosts, answers: IO[bytes]) -> None:
        self._hosts = hosts
        self._answers = answers
        self._writing = threading.Lock()

    def serve(self, requests: IO[bytes]) -> None:
        """Answer requests until the stream ends; then abandon the requests in progress."""
        while line := requests.readline(LINE_LIMIT + 1):
            if len(line) > LINE_LIMIT:
                raise UsageError(f"a request has more than {LINE_LIMIT} bytes")
            threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: bytes) -> None:
        number: object = None
        try:
            request = _parsed(line)
            number = request["id"]
            answer = {"id": number, "value": self._act(request)}
        except FactoryError as error:
            answer = {"id": number, "error": _described(error)}
        except Exception as error:  # noqa: BLE001 (a defect must not leave the request without an answer)
            traceback.print_exc()
            answer = {"id": number, "error": _described(FactoryError(f"the broker failed: {error!r}"))}
        with self._writing, suppress(BrokenPipeError):
            self._answers.write(json.dumps(answer).encode() + b"\n")
            self._answers.flush()

    def _act(self, request: Mapping[str, Any]) -> Any:
        call, arguments = _checked(request)
        if call == "launch":
            return self._hosts.launch(Launch(**arguments))
        return getattr(self._hosts, call)(**arguments)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict) or set(request) != {"version", "id", "call", "with"}:
        raise UsageError("the request is not an object with version, id, call and with")
    return request


def _checked(request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return method and arguments of a request; raise UsageError for missing or unknown arguments."""
    call, arguments = request["call"], request["with"]
    if request["version"] != VERSION:
        raise UsageError(f"version {request['version']!r} of the request is not {VERSION}")
    if not isinstance(call, str) or call not in _CALLS:
        raise UsageError(f"the broker does not know the call {call!r}")
    if not isinstance(arguments, dict) or set(arguments) != set(_CALLS[call]):
        raise UsageError(f"{call}: expected the arguments {', '.join(_CALLS[call]) or '(none)'}")
    for name, value in arguments.items():
        if not _CHECKS[name](value):
            raise UsageError(f"{call}: {str(value)[:100]!r} is not valid as {name}")
    return call, arguments


def _described(error: FactoryError) -> dict[str, str]:
    kind = type(error).__name__
    return {"kind": kind, "message": error.message, "hint": error.hint, "details": error.details}


def main(arguments: list[str]) -> int:
    settings = Settings.read(Files(Path(arguments[0])).settings)
    hosts = EngineHosts(
        engine=Engine(settings.engine_url),
        session=settings.session,
        ssh_port=int(arguments[1]),
        machines=tuple(settings.machines.values()),
    )
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # printed text goes to the log, not between the answers
        try:
            Broker(hosts, answers).serve(sys.stdin.buffer)
        except FactoryError as error:
            print(f"broker: {error.message}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m builder.rehearsal.ec2.broker FOLDER SSH_PORT")
    sys.exit(main(sys.argv[1:]))
