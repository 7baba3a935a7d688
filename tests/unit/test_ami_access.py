"""The address at which an instance is reached: the same choice for Packer and for the checks."""

import pytest

from builder.adapters.ami.access import address_of, interface, launch_network
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


@pytest.mark.parametrize(
    "settings", [AwsSettings(), AwsSettings(subnet=SUBNET), AwsSettings(public_address=True)]
)
def test_subnet_decides_about_the_public_address_unless_the_site_does(settings: AwsSettings) -> None:
    network = launch_network(settings, "sg-1")
    assert network == {
        "SecurityGroupIds": ["sg-1"],
        **({"SubnetId": SUBNET} if settings.subnet else {}),
    }
