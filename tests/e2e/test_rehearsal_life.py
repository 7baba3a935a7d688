"""Start, stop, interrupt and kill rehearsals; none may leave containers, images or folders behind."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from builder.wait import until
from tests.support.output import result_of
from tests.support.rehearsal import Clients, Key
from tests.support.rehearsed import Program, brokers_of, unix_sockets_of

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

Names = Callable[[], str]


def start_instance(aws: Clients, key: Key) -> dict[str, Any]:
    aws.ec2.import_key_pair(KeyName="test", PublicKeyMaterial=key.public)
    return aws.run(KeyName="test")


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return Key.create(tmp_path)


def test_two_rehearsals_are_isolated(program: Program, rehearsal_name: Names, key: Key) -> None:
    names = [rehearsal_name(), rehearsal_name()]
    for name in names:
        program.up(name)
    accounts = [program.aws(name) for name in names]
    machines = [start_instance(aws, key) for aws in accounts]
    addresses = [machine["PublicIpAddress"] for machine in machines]
    assert len(set(addresses)) == 2
    for address in addresses:
        key.ssh(address, "true")
    for aws, other in zip(accounts, reversed(machines), strict=True):
        reservations = aws.ec2.describe_instances()["Reservations"]
        ids = [reservation["Instances"][0]["InstanceId"] for reservation in reservations]
        assert other["InstanceId"] not in ids
    assert program.call("down", "--name", names[0]).returncode == 0
    assert program.left(names[0]) == []
    key.ssh(addresses[1], "true")
    accounts[1].ready_image(machines[1]["InstanceId"])
    assert program.call("down", "--name", names[1]).returncode == 0
    assert program.left(names[1]) == []
    assert not program.folder(names[1]).exists()


def test_up_removes_the_remains_of_a_killed_rehearsal(
    program: Program, rehearsal_name: Names, key: Key
) -> None:
    name, other = rehearsal_name(), rehearsal_name()
    program.up(name)
    aws = program.aws(name)
    instance = start_instance(aws, key)["InstanceId"]
    aws.ready_image(instance)
    pid = program.ready(name)["pid"]
    (broker,) = brokers_of(pid)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: program.call("status", "--name", name).returncode == 3, timeout_s=20, every_s=0.1)
    assert until(lambda: not Path(f"/proc/{broker}").exists(), timeout_s=20, every_s=0.1)
    assert len(program.left(name)) >= 4, "two containers, and images of two disks"
    program.up(name)
    restarted = program.aws(name)
    assert restarted.ec2.describe_instances()["Reservations"] == []
    assert program.containers(name) == []
    machine = start_instance(restarted, key)
    key.ssh(machine["PublicIpAddress"], "true")
    os.kill(program.ready(name)["pid"], signal.SIGKILL)
    until(lambda: program.call("status", "--name", name).returncode == 3, timeout_s=20, every_s=0.1)
    done = program.call("up", "--name", other)
    assert f"'{name}' was killed: removed its leftovers" in done.stderr
    assert program.left(name) == []
    assert not program.folder(name).exists()


def test_only_the_broker_of_a_rehearsal_is_connected_to_the_engine(
    program: Program, rehearsal_name: Names, key: Key
) -> None:
    name = rehearsal_name()
    program.up(name)
    aws = program.aws(name)
    instance = start_instance(aws, key)["InstanceId"]
    pid = program.ready(name)["pid"]
    (broker,) = brokers_of(pid)
    assert unix_sockets_of(pid) == set(), "moto's process has a connection to the engine"
    assert unix_sockets_of(broker) != set()
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (url,) = [variable for variable in environment if variable.startswith(b"DOCKER_HOST=")]
    assert not Path(url.decode().removeprefix("DOCKER_HOST=unix://")).exists()
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
    assert re.search(r"^Seccomp:\t2$", status, re.M), "moto's process can open Unix sockets"
    assert re.search(r"^CapEff:\t0{15}[02]$", status, re.M)
    assert "the kernel has no" not in (program.folder(name) / "log.txt").read_text()

    os.kill(broker, signal.SIGKILL)
    with pytest.raises(ClientError, match="the broker of this rehearsal has ended"):
        aws.ec2.stop_instances(InstanceIds=[instance])
    assert program.call("down", "--name", name).returncode == 0
    assert program.left(name) == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_instance_start_leaves_nothing_behind(
    program: Program, rehearsal_name: Names, key: Key, sign: signal.Signals
) -> None:
    name = rehearsal_name()
    program.up(name)
    aws = program.aws(name)
    aws.ec2.import_key_pair(KeyName="test", PublicKeyMaterial=key.public)
    aws.debian()

    def start() -> None:
        try:
            aws.run(KeyName="test", MaxCount=3, MinCount=3)
        except Exception as error:  # noqa: BLE001 (the server may die at any point of the request)
            errors.append(error)

    errors: list[Exception] = []
    thread = threading.Thread(target=start)
    thread.start()
    assert until(lambda: len(program.containers(name)) > 0, timeout_s=30, every_s=0.1)
    pid = program.ready(name)["pid"]
    os.kill(pid, sign)
    assert until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), timeout_s=90, every_s=0.1)
    thread.join()
    assert errors
    assert program.left(name) == []


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")
    except FileNotFoundError:
        return True


def test_up_status_env_and_down_print_the_state_of_the_rehearsal(
    program: Program, rehearsal_name: Names, key: Key
) -> None:
    name = rehearsal_name()
    assert program.call("status", "--name", name).returncode == 3
    up = program.call("up", "--name", name)
    assert up.stdout.startswith("http://127.0.0.1:")
    assert "account 123456789012, regions us-east-1, us-west-2, eu-west-1" in up.stderr
    again = program.call("up", "--name", name)
    assert (again.returncode, again.stdout) == (0, up.stdout)
    aws = program.aws(name)
    machine = start_instance(aws, key)
    status = program.call("status", "--name", name)
    assert machine["PublicIpAddress"] in status.stdout
    assert re.search(
        r"^\d+ calls so far, 2 of them changed resources", status.stdout, re.M
    )  # and waiting ones
    as_json = result_of(program.call("status", "--name", name, "--json").stdout)
    assert as_json["instances"][0]["id"] == machine["InstanceId"]
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    script = f'{program.call("env", "--name", name).stdout}\n{sys.executable} -c "{code}"'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "123456789012"
    assert program.call("down", "--name", name).returncode == 0
    assert "was not running" in program.call("down", "--name", name).stderr
    wrong = program.call("up", "--name", "Not A Name")
    assert (wrong.returncode, "is not a valid name for a rehearsal" in wrong.stderr) == (2, True)
