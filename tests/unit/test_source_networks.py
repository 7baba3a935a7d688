"""SSH source networks of an instance: by default only this host, never all networks."""

import ipaddress

import pytest

from builder.adapters.aws.account import Account
from builder.adapters.aws.groups import source_networks
from builder.errors import UsageError
from builder.site import AwsSettings

AWS = Account({}, region="us-east-1")


def test_source_networks_of_the_site_file_are_used() -> None:
    site = AwsSettings(source_cidrs=("203.0.113.0/24",), public_address=True)
    assert source_networks(AWS, site) == ("203.0.113.0/24",)


def test_default_source_network_is_the_address_of_this_host() -> None:
    (network,) = source_networks(AWS, AwsSettings(public_address=False))
    assert ipaddress.ip_network(network).num_addresses == 1


def test_default_source_network_in_a_rehearsal_is_loopback() -> None:
    rehearsal = Account({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, region="us-east-1")
    assert source_networks(rehearsal, AwsSettings(public_address=True)) == ("127.0.0.0/8",)


def test_public_address_requires_source_networks_in_the_site_file() -> None:
    with pytest.raises(UsageError, match="source_cidrs is not set") as caught:
        source_networks(AWS, AwsSettings(public_address=True))
    assert "source_cidrs = [" in caught.value.hint
