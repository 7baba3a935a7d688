"""The machine that roles are tried on and AMIs are rehearsed on: like one in a cloud, without privileges."""

import dataclasses
import subprocess
from collections.abc import Iterator

import pytest

from builder.adapters.ansible.ssh import SshAccess
from builder.app.role_plan import RoleRequest
from builder.model import Plan
from builder.rehearsal.ec2 import machine as machine_image
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def plan() -> Plan:
    return overlay.plan_of(RoleRequest(components=["base"]), None)


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> SshAccess:
    return SshAccess(folder=tmp_path_factory.mktemp("ssh"))


@pytest.fixture(scope="module")
def machine(plan: Plan, ssh: SshAccess) -> Iterator[Machine]:
    with open_machine(plan, site=None, label="machine", ssh=ssh) as opened:
        yield opened


def log_in(ssh: SshAccess, command: str) -> "subprocess.CompletedProcess[str]":
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    where = ["-i", str(ssh.key), "-p", str(ssh.port), "admin@127.0.0.1"]
    argv = ["ssh", "-q", *words, *where, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_it_boots_and_every_service_runs(machine: Machine) -> None:
    assert machine.shell("systemctl is-system-running") == "running"
    assert machine.shell("systemctl --failed --plain --no-legend") == ""


def test_its_user_logs_in_with_a_key_and_becomes_root_without_a_password(
    machine: Machine, ssh: SshAccess
) -> None:
    done = log_in(ssh, "id --user --name; sudo --non-interactive id --user")
    assert done.stdout.split() == ["admin", "0"], done.stderr


def test_nobody_logs_in_with_a_password(machine: Machine) -> None:
    for user in ("admin", "root"):
        assert machine.shell(f"getent shadow {user} | cut -d: -f2").startswith(("!", "*"))


def test_it_has_no_privilege_that_other_containers_have_not(machine: Machine) -> None:
    host = (machine.made.engine.inspect_container(machine.made.container) or {})["HostConfig"]
    assert host["Privileged"] is False
    assert not host["CapAdd"]
    assert not host["SecurityOpt"]
    assert not host["Devices"]


def test_its_image_has_no_identity(machine: Machine) -> None:
    image = (machine.made.engine.inspect_container(machine.made.container) or {})["Image"]
    argv = ["docker", "run", "--rm", "--network=none", image, "sh", "-c"]
    folders = "/etc/ssh /home/admin/.ssh /root/.ssh"
    script = f"cat /etc/machine-id; find {folders} -name 'ssh_host_*' -o -name authorized_keys 2>/dev/null"
    done = subprocess.run([*argv, script], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_its_identity_comes_with_the_first_boot(machine: Machine) -> None:
    assert len(machine.shell("cat /etc/machine-id")) == 32
    assert "ssh_host_ed25519_key" in machine.shell("ls /etc/ssh")


def test_the_key_of_its_image_follows_what_it_is_made_of(plan: Plan) -> None:
    system = plan.system
    assert system.bootstrap is not None
    assert system.ami is not None
    more = dataclasses.replace(system.bootstrap, packages=(*system.bootstrap.packages, "less"))
    ami = dataclasses.replace(system.ami, user="other")
    assert machine_image.key_of(dataclasses.replace(system, ami=ami)) != machine_image.key_of(system)
    assert machine_image.key_of(dataclasses.replace(system, bootstrap=more)) != machine_image.key_of(system)
    assert machine_image.key_of(dataclasses.replace(system, summary="other")) == machine_image.key_of(system)


def test_it_is_made_once(machine: Machine, plan: Plan) -> None:
    said: list[str] = []
    made = machine.made
    assert machine_image.ensure(made.engine, made.run, plan.system, made.applier.mirror, said.append)
    assert said == []
