"""Attacks on the broker of a rehearsal by moto's process, and the end of both processes."""

import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.engine.client import Engine
from builder.errors import FactoryError, MissingError, UsageError
from builder.rehearsal.ec2.brokered import LINE_LIMIT, VERSION, BrokeredHosts, brokered_hosts
from builder.rehearsal.files import Files, Settings
from builder.wait import until
from tests.support.rehearsal import ROOT
from tests.support.rehearsed import brokers_of

INSTANCE, SNAPSHOT = "i-0123456789abcdef0", "snap-0123456789abcdef0"
MACHINE = "factory-machines:0123456789abcdef"
LAUNCH = {
    "instance": INSTANCE,
    "snapshot": SNAPSHOT,
    "address": "127.0.2.2",
    "hostname": "ip-127-0-2-2",
    "metadata": {},
    "public_key": "",
    "script": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of a rehearsal with settings for the broker."""
    settings = Settings(
        session=secrets.token_hex(5), engine_url=Engine().url, account={}, machines={"debian-12": MACHINE}
    )
    Files(tmp_path).settings.write_text(json.dumps(dataclasses.asdict(settings)))
    return tmp_path


@pytest.fixture
def hosts(folder: Path) -> Iterator[BrokeredHosts]:
    with brokered_hosts(folder, ssh_port=22) as opened:
        yield opened


def answers(folder: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Return the broker's answers to lines on its stdin, in the order of their ids."""
    argv = [sys.executable, "-m", "builder.rehearsal.ec2.broker", str(folder), "22"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as broker:
        assert broker.stdin
        assert broker.stdout
        broker.stdin.write(b"".join(lines))
        broker.stdin.flush()
        found = [json.loads(broker.stdout.readline()) for _ in lines]
        broker.stdin.close()
        assert broker.wait(timeout=30) == 0
    return sorted(found, key=lambda answer: answer["id"] or 0)


# Calls with their arguments, each of which would reach beyond the rehearsal's own machines.
ATTACKS: list[tuple[str, Any]] = [
    ("launch", LAUNCH | {"mounts": ["/:/host"]}),
    ("launch", LAUNCH | {"network": "host"}),
    ("launch", LAUNCH | {"cap_add": ["SYS_ADMIN"]}),
    ("launch", LAUNCH | {"snapshot": "../debian:latest"}),
    ("launch", LAUNCH | {"snapshot": f"{SNAPSHOT}/../x"}),
    ("launch", LAUNCH | {"instance": "x"}),
    ("launch", LAUNCH | {"hostname": "h --privileged"}),
    ("launch", LAUNCH | {"metadata": "/etc/shadow"}),
    ("launch", LAUNCH | {"address": "0.0.0.0"}),
    ("launch", LAUNCH | {"address": "127.0.0.1"}),  # not an address that the broker gave out
    ("launch", {"instance": INSTANCE}),
    ("tag_snapshot", {"snapshot": SNAPSHOT, "image": "debian:latest"}),
    ("tag_snapshot", {"snapshot": "../x", "image": MACHINE}),
    ("copy", {"source": "debian:latest", "snapshot": SNAPSHOT}),
    ("delete_snapshot", {"snapshot": "debian:latest"}),
    ("capture", {"instance": INSTANCE, "snapshot": "latest"}),
    ("remove", {"instance": "0123456789ab"}),
    ("remove", {"instance": "../../containers/registry"}),
    ("remove", {"instance": [INSTANCE]}),
    ("stop", {"instance": "registry"}),
    ("start", {"instance": INSTANCE, "address": "169.254.169.254"}),
    ("sweep", {"session": "other"}),
    ("create", {"image": "debian"}),
    ("_remove_pair", {"instance": INSTANCE}),
    ("__init__", {}),
    ("execute", {"container": "x", "command": ["sh"]}),
    (["stop"], {"instance": INSTANCE}),
    ("stop", [INSTANCE]),
]


def test_refuses_requests_beyond_the_rehearsals_own_machines(folder: Path) -> None:
    requests = [
        {"version": VERSION, "id": number, "call": call, "with": arguments}
        for number, (call, arguments) in enumerate(ATTACKS, 1)
    ]
    found = answers(folder, *(json.dumps(request).encode() + b"\n" for request in requests))
    kinds = [
        (attack, answer.get("error", {}).get("kind")) for attack, answer in zip(ATTACKS, found, strict=True)
    ]
    assert [attack for attack, kind in kinds if kind != "UsageError"] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"GET /containers/json HTTP/1.1\n", "the request is not JSON"),
        (b"[]\n", "the request is not an object"),
        (b"[" * 100_000 + b"\n", "the request is not JSON"),
        (b'{"version": 2, "id": 1, "call": "sweep", "with": {}}\n', "version 2 of the request is not 1"),
    ],
)
def test_refuses_malformed_requests(folder: Path, line: bytes, message: str) -> None:
    (answer,) = answers(folder, line)
    assert message in answer["error"]["message"]


def test_an_endless_line_ends_the_broker(folder: Path, hosts: BrokeredHosts) -> None:
    with pytest.raises(UsageError, match="the limit is"):
        hosts.update_metadata(INSTANCE, {"x": "y" * LINE_LIMIT})
    argv = [sys.executable, "-m", "builder.rehearsal.ec2.broker", str(folder), "22"]
    done = subprocess.run(argv, input=b"x" * (LINE_LIMIT + 1), capture_output=True, timeout=30, check=False)
    assert done.returncode == 2
    assert b"a request has more than" in done.stderr


@pytest.mark.engine
def test_leaves_containers_of_other_owners_alone(
    folder: Path, hosts: BrokeredHosts, shell_image: str
) -> None:
    """A container with the name of a machine, but without the label of the rehearsal, is refused."""
    session = Settings.read(Files(folder).settings).session
    engine = Engine()
    foreign = [
        engine.create(
            shell_image,
            command=("sleep", "600"),
            network="none",
            labels={},
            name=f"factory-{session}-{INSTANCE}-{part}",
        )
        for part in ("machine", "network")
    ]
    try:
        for container in foreign:
            engine.start(container)
        for attack in (
            lambda: hosts.remove(INSTANCE),
            lambda: hosts.stop(INSTANCE),
            lambda: hosts.start(INSTANCE, "127.0.2.2"),
            lambda: hosts.capture(INSTANCE, SNAPSHOT),
            lambda: hosts.update_metadata(INSTANCE, {}),
        ):
            with pytest.raises(UsageError, match="does not belong to this rehearsal"):
                attack()
        hosts.sweep()
        states = [engine.inspect_container(container) or {} for container in foreign]
        assert [state["State"]["Running"] for state in states] == [True, True]
    finally:
        for container in foreign:
            engine.remove_container(container)


def test_a_killed_broker_fails_waiting_and_later_requests(hosts: BrokeredHosts) -> None:
    (broker,) = brokers_of(os.getpid())
    hosts.release_address("127.0.2.2")
    os.kill(broker, signal.SIGSTOP)
    failed: list[FactoryError] = []

    def ask() -> None:
        try:
            hosts.take_address()
        except FactoryError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert until(lambda: hosts._waiting, timeout_s=10, every_s=0.01)
    os.kill(broker, signal.SIGKILL)
    thread.join(30)
    assert [type(error) for error in failed] == [MissingError]
    assert "the broker of this rehearsal has ended" in failed[0].message
    with pytest.raises(MissingError, match="the broker of this rehearsal has ended"):
        hosts.remove(INSTANCE)


PARENT = """
import sys, time
from pathlib import Path
from builder.rehearsal.ec2.brokered import brokered_hosts
with brokered_hosts(Path(sys.argv[1]), ssh_port=22) as hosts:
    hosts.release_address("127.0.2.2")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_broker_ends_with_its_parent(folder: Path, sign: signal.Signals) -> None:
    argv = [sys.executable, "-c", PARENT, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"ready\n"
        (broker,) = brokers_of(parent.pid)
        parent.send_signal(sign)
    assert until(lambda: not Path(f"/proc/{broker}").exists(), timeout_s=20, every_s=0.05)
