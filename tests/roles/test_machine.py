"""The machine that roles are tried on and AMIs are rehearsed on: like one in a cloud, without privileges."""

import dataclasses
import subprocess
from collections.abc import Iterator

import pytest

from builder.model import Plan
from builder.rehearsal.ec2 import machine
from tests.roles import plans
from tests.roles.bench import Bench, open_bench
from tests.roles.door import Door
from tests.roles.plans import Wanted

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plans.make(Wanted(components=["base"]), None)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    return Door(folder=tmp_path_factory.mktemp("door"))


@pytest.fixture(scope="module")
def bench(plan: Plan, door: Door) -> Iterator[Bench]:
    with open_bench(plan, site=None, say=print, label="machine", door=door) as opened:
        yield opened


def log_in(door: Door, command: str) -> "subprocess.CompletedProcess[str]":
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    where = ["-i", str(door.key), "-p", str(door.port), f"{machine.LOGIN_USERS['debian']}@127.0.0.1"]
    argv = ["ssh", "-q", *words, *where, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_it_boots_and_every_service_runs(bench: Bench) -> None:
    assert bench.shell("systemctl is-system-running") == "running"
    assert bench.shell("systemctl --failed --plain --no-legend") == ""


def test_its_user_logs_in_with_a_key_and_becomes_root_without_a_password(bench: Bench, door: Door) -> None:
    done = log_in(door, "id --user --name; sudo --non-interactive id --user")
    assert done.stdout.split() == ["admin", "0"], done.stderr


def test_nobody_logs_in_with_a_password(bench: Bench) -> None:
    for user in ("admin", "root"):
        assert bench.shell(f"getent shadow {user} | cut -d: -f2").startswith(("!", "*"))


def test_it_has_no_privilege_that_other_containers_have_not(bench: Bench) -> None:
    host = (bench.engine.inspect_container(bench.container) or {})["HostConfig"]
    assert host["Privileged"] is False
    assert not host["CapAdd"]
    assert not host["SecurityOpt"]
    assert not host["Devices"]


def test_its_image_has_no_identity(bench: Bench) -> None:
    image = (bench.engine.inspect_container(bench.container) or {})["Image"]
    argv = ["docker", "run", "--rm", "--network=none", image, "sh", "-c"]
    folders = "/etc/ssh /home/admin/.ssh /root/.ssh"
    script = f"cat /etc/machine-id; find {folders} -name 'ssh_host_*' -o -name authorized_keys 2>/dev/null"
    done = subprocess.run([*argv, script], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_its_identity_comes_with_the_first_boot(bench: Bench) -> None:
    assert len(bench.shell("cat /etc/machine-id")) == 32
    assert "ssh_host_ed25519_key" in bench.shell("ls /etc/ssh")


def test_the_key_of_its_image_follows_what_it_is_made_of(plan: Plan) -> None:
    system = plan.system
    assert system.bootstrap is not None
    more = dataclasses.replace(system.bootstrap, packages=(*system.bootstrap.packages, "less"))
    assert machine.key_of(dataclasses.replace(system, bootstrap=more)) != machine.key_of(system)
    assert machine.key_of(dataclasses.replace(system, summary="other")) == machine.key_of(system)


def test_it_is_made_once(bench: Bench, plan: Plan) -> None:
    said: list[str] = []
    assert machine.ensure(bench.engine, bench.run, plan.system, bench.mirror, said.append)
    assert said == []
