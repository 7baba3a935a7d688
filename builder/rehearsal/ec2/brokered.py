"""Client of the broker, the process that uses the engine for a rehearsal.

moto's process has no connection to the engine. It writes one JSON object a line to the broker's stdin and
reads the answers from its stdout:

    {"version": 1, "id": 7, "call": "stop", "with": {"instance": "i-0123456789abcdef0"}}
    {"id": 7, "value": null}
    {"id": 8, "error": {"kind": "BuildError", "message": "…", "hint": "…", "details": "…"}}

Requests are answered in any order. The broker ends when its stdin is closed, even if this process is killed.
"""

import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from builder.adapters.host import process
from builder.errors import BuildError, FactoryError, MissingError, UsageError
from builder.rehearsal.ec2.hosts import Launch
from builder.wait import until

VERSION = 1
LINE_LIMIT = 1 << 20
_ANSWER_S = 2400.0  # more than the broker's longest request to the engine
_END_S = 10.0
_KINDS: Mapping[str, type[FactoryError]] = {
    kind.__name__: kind for kind in (BuildError, MissingError, UsageError)
}


@contextmanager
def brokered_hosts(
    folder: Path, *, ssh_port: int, confine: Callable[[], object] = lambda: None
) -> Iterator["BrokeredHosts"]:
    """Start the broker process of the rehearsal in `folder`; stop it at the end of the block.

    `confine` is called once the broker has started and before this process has further threads.
    """
    argv = [sys.executable, "-m", "builder.rehearsal.ec2.broker", str(folder), str(ssh_port)]
    broker = process.start_piped(argv)
    confine()
    hosts = BrokeredHosts(broker, ssh_port=ssh_port)
    reader = threading.Thread(target=hosts.read_answers, name="broker", daemon=True)
    reader.start()
    try:
        yield hosts
    finally:
        with suppress(OSError):
            broker.input.close()
        until(lambda: not broker.runs(), timeout_s=_END_S, every_s=0.05)
        broker.end()
        reader.join()
        broker.output.close()


class BrokeredHosts:
    """Hosts that the broker runs; thread-safe."""

    def __init__(self, broker: process.Service, *, ssh_port: int) -> None:
        self.ssh_port = ssh_port
        self._broker = broker
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._has_ended = False

    def read_answers(self) -> None:
        """Pass answers to the waiting threads until the broker ends; the remaining requests fail."""
        for line in self._broker.output:
            if not line.endswith(b"\n"):  # killed while it wrote
                break
            answer = json.loads(line)
            if future := self._waiting.pop(answer["id"], None):
                future.set_result(answer)
        with self._lock:
            self._has_ended = True
        for number in list(self._waiting):
            self._waiting.pop(number).set_exception(_ended())

    def _ask(self, call: str, **arguments: Any) -> Any:
        number, future = next(self._numbers), Future[Any]()
        request = {"version": VERSION, "id": number, "call": call, "with": arguments}
        line = json.dumps(request).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            raise UsageError(f"{call}: the request has {len(line)} bytes; the limit is {LINE_LIMIT}")
        with self._lock:
            if self._has_ended:
                raise _ended()
            self._waiting[number] = future
            try:
                self._broker.input.write(line)
                self._broker.input.flush()
            except (OSError, ValueError) as error:  # ValueError: the pipe is closed
                self._waiting.pop(number, None)
                raise _ended() from error
        try:
            answer = future.result(_ANSWER_S)
        except TimeoutError as error:
            self._waiting.pop(number, None)
            raise BuildError(f"{call}: the broker did not answer in {_ANSWER_S:.0f} s") from error
        if failed := answer.get("error"):
            kind = _KINDS.get(failed["kind"], BuildError)
            raise kind(failed["message"], hint=failed["hint"], details=failed["details"])
        return answer["value"]

    def take_address(self) -> str:
        return str(self._ask("take_address"))

    def release_address(self, address: str) -> None:
        self._ask("release_address", address=address)

    def tag_snapshot(self, snapshot: str, image: str) -> None:
        self._ask("tag_snapshot", snapshot=snapshot, image=image)

    def can_start(self, snapshot: str) -> bool:
        return bool(self._ask("can_start", snapshot=snapshot))

    def launch(self, launch: Launch) -> None:
        self._ask("launch", **{field.name: getattr(launch, field.name) for field in fields(Launch)})

    def stop(self, instance: str) -> None:
        self._ask("stop", instance=instance)

    def start(self, instance: str, address: str) -> None:
        self._ask("start", instance=instance, address=address)

    def reboot(self, instance: str, address: str) -> None:
        self._ask("reboot", instance=instance, address=address)

    def remove(self, instance: str) -> None:
        self._ask("remove", instance=instance)

    def update_metadata(self, instance: str, metadata: Mapping[str, Any]) -> None:
        self._ask("update_metadata", instance=instance, metadata=metadata)

    def capture(self, instance: str, snapshot: str) -> None:
        self._ask("capture", instance=instance, snapshot=snapshot)

    def copy(self, source: str, snapshot: str) -> None:
        self._ask("copy", source=source, snapshot=snapshot)

    def delete_snapshot(self, snapshot: str) -> None:
        self._ask("delete_snapshot", snapshot=snapshot)

    def sweep(self) -> None:
        """Remove all containers and images of this rehearsal from the engine."""
        self._ask("sweep")


def _ended() -> MissingError:
    return MissingError(
        "the broker of this rehearsal has ended, so no instance can be changed; restart the rehearsal",
        hint="builder rehearse down, then: builder rehearse up",
    )
