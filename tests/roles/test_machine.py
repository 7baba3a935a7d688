"""Tests of the machine container for role tests and rehearsed AMIs: like an instance, but unprivileged."""

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
    destination = ["-i", str(ssh.key), "-p", str(ssh.port), "admin@127.0.0.1"]
    argv = ["ssh", "-q", *words, *destination, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_machine_boots_without_failed_services(machine: Machine) -> None:
    assert machine.shell("systemctl is-system-running") == "running"
    assert machine.shell("systemctl --failed --plain --no-legend") == ""


def test_user_logs_in_with_a_key_and_has_passwordless_sudo(machine: Machine, ssh: SshAccess) -> None:
    done = log_in(ssh, "id --user --name; sudo --non-interactive id --user")
    assert done.stdout.split() == ["admin", "0"], done.stderr


def test_password_login_is_disabled(machine: Machine) -> None:
    for user in ("admin", "root"):
        assert machine.shell(f"getent shadow {user} | cut -d: -f2").startswith(("!", "*"))


def test_machine_has_no_additional_privileges(machine: Machine) -> None:
    host = (machine.opened.engine.inspect_container(machine.opened.container) or {})["HostConfig"]
    assert host["Privileged"] is False
    assert not host["CapAdd"]
    assert not host["SecurityOpt"]
    assert not host["Devices"]
    assert host["NetworkMode"].startswith("container:"), "the network of the host"
    keeper = machine.opened.engine.inspect_container(host["NetworkMode"].partition(":")[2]) or {}
    assert keeper["HostConfig"]["PidsLimit"] > 0, "its limits hold for the machine below it"
    assert keeper["HostConfig"]["Memory"] > 0


def test_image_has_no_machine_id_and_no_ssh_keys(machine: Machine) -> None:
    image = (machine.opened.engine.inspect_container(machine.opened.container) or {})["Image"]
    argv = ["docker", "run", "--rm", "--network=none", image, "sh", "-c"]
    folders = "/etc/ssh /home/admin/.ssh /root/.ssh"
    script = f"cat /etc/machine-id; find {folders} -name 'ssh_host_*' -o -name authorized_keys 2>/dev/null"
    done = subprocess.run([*argv, script], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_first_boot_creates_machine_id_and_host_keys(machine: Machine) -> None:
    assert len(machine.shell("cat /etc/machine-id")) == 32
    assert "ssh_host_ed25519_key" in machine.shell("ls /etc/ssh")


def test_image_key_depends_on_packages_and_user(plan: Plan) -> None:
    system = plan.system
    assert system.bootstrap is not None
    assert system.ami is not None
    more = dataclasses.replace(system.bootstrap, packages=(*system.bootstrap.packages, "less"))
    ami = dataclasses.replace(system.ami, user="other")
    assert machine_image.key_of(dataclasses.replace(system, ami=ami)) != machine_image.key_of(system)
    assert machine_image.key_of(dataclasses.replace(system, bootstrap=more)) != machine_image.key_of(system)
    assert machine_image.key_of(dataclasses.replace(system, summary="other")) == machine_image.key_of(system)


def test_image_is_built_only_once(machine: Machine, plan: Plan) -> None:
    messages: list[str] = []
    opened = machine.opened
    assert machine_image.ensure(
        opened.engine, opened.run, plan.system, opened.applier.mirror, messages.append
    )
    assert messages == []
