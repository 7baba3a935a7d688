"""Address for SSH to an instance: Packer and the checks use the same address."""

from pathlib import Path

import pytest

from builder.adapters.ami.access import (
    address_of,
    interface,
    launch_network,
    session_problems,
    session_proxy,
)
from builder.adapters.ami.checker import ssh_config
from builder.adapters.aws.sshkeys import HostKey
from builder.site import AwsSettings

PRIVATE, PUBLIC = "10.0.0.1", "203.0.113.1"
SUBNET = "subnet-0123456789abcdef0"


@pytest.mark.parametrize(
    ("settings", "chosen", "expected"),
    [
        (AwsSettings(), "", PUBLIC),
        (AwsSettings(public_address=True), "", PUBLIC),
        (AwsSettings(public_address=False), "private_ip", PRIVATE),
        (AwsSettings(ssh_interface="private_ip"), "private_ip", PRIVATE),
        (AwsSettings(ssh_interface="public_ip", public_address=False), "public_ip", PUBLIC),
    ],
)
def test_checks_log_in_to_the_address_that_packer_selects(
    settings: AwsSettings, chosen: str, expected: str
) -> None:
    assert interface(settings) == chosen
    both = {"PrivateIpAddress": PRIVATE, "PublicIpAddress": PUBLIC}
    assert address_of(both, settings) == expected
    assert address_of({"PrivateIpAddress": PRIVATE}, settings) == PRIVATE


SESSION = AwsSettings(ssh_interface="session_manager", instance_profile="factory")


def test_checks_use_session_manager_if_packer_uses_session_manager(tmp_path: Path) -> None:
    instance = {"InstanceId": "i-0123456789abcdef0", "PrivateIpAddress": PRIVATE}
    assert address_of(instance, SESSION) == "i-0123456789abcdef0"
    assert launch_network(SESSION, "sg-1")["IamInstanceProfile"] == {"Name": "factory"}
    assert "IamInstanceProfile" not in launch_network(AwsSettings(instance_profile="factory"), "sg-1")
    proxy = session_proxy("eu-west-1", SESSION)
    host = HostKey(alias="image", known_hosts=tmp_path / "known_hosts", user_data="")
    text = ssh_config(
        user="admin", port=22, key=tmp_path / "key", host=host, sockets=tmp_path, proxy_command=proxy
    )
    (line,) = [line.strip() for line in text.splitlines() if "ProxyCommand" in line]
    assert line == (
        "ProxyCommand aws ssm start-session --region eu-west-1 --target %h"
        " --document-name AWS-StartSSHSession --parameters portNumber=%p"
    )
    assert session_proxy("eu-west-1", AwsSettings()) == ""


def test_missing_requirements_of_session_manager_are_found_before_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert session_problems(AwsSettings()) == []
    found = session_problems(AwsSettings(ssh_interface="session_manager"))
    assert [problem.message.partition(",")[0] for problem in found] == [
        "Session Manager needs an instance profile",
        "aws.ssh_interface is session_manager",
        "aws.ssh_interface is session_manager",
    ]
    assert ["session-manager-plugin" in problem.message for problem in found] == [False, True, False]
    for name in ("session-manager-plugin", "aws"):
        (tmp_path / name).touch(mode=0o755)
    assert session_problems(SESSION) == []


@pytest.mark.parametrize(
    "settings", [AwsSettings(), AwsSettings(subnet=SUBNET), AwsSettings(public_address=True)]
)
def test_subnet_default_for_public_addresses_applies_unless_the_site_sets_one(settings: AwsSettings) -> None:
    network = launch_network(settings, "sg-1")
    assert network == {
        "SecurityGroupIds": ["sg-1"],
        **({"SubnetId": SUBNET} if settings.subnet else {}),
    }
