"""Security group of a run's instances, which allows only SSH from the networks in site.toml.

The builder creates it instead of Packer, so that it has the run's name and tags from its creation with every
version of Packer, and so that the instance of the checks can use it too.
"""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from builder.adapters.aws.account import Account, Resource, calling_aws, ignoring, specifications
from builder.errors import BuildError, UsageError
from builder.site import AwsSettings
from builder.wait import until

_LOOPBACK = "127.0.0.0/8"
_ELSEWHERE = ("192.0.2.1", 9)  # reserved for documentation; choosing a route to it sends nothing
_SSH = 22
_RELEASE_S = 300.0


@contextmanager
def security_group(
    account: Account,
    settings: AwsSettings,
    name: str,
    tags: Mapping[str, str],
    *,
    cancelled: threading.Event,
    on_left: Callable[[str], None],
    kept: threading.Event,
    allows_itself: bool = False,
) -> Iterator[str]:
    """Yield the id of the site's own group, or of a group that is created for the block and deleted after it.

    The created group stays if `kept` is set. `allows_itself` allows all traffic within the group, which EFA
    requires in both directions.
    `on_left` is called with the id of a group that could not be deleted because it is still in use.
    """
    if settings.security_group:
        yield settings.security_group
        return
    permission = _permission(account, settings)
    with calling_aws(f"creating the security group {name}"):
        group = _create(account, settings, name, tags)
    try:
        with calling_aws(f"allowing SSH in {group}"), ignoring("InvalidPermission.Duplicate"):
            account.client("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
        if allows_itself:
            _allow_itself(account, group)
        yield group
    finally:
        if not (kept.is_set() or delete(account, account.region, group, cancelled=cancelled)):
            on_left(group)


def _allow_itself(account: Account, group: str) -> None:
    ec2 = account.client("ec2")
    within = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
    for allow in (ec2.authorize_security_group_ingress, ec2.authorize_security_group_egress):
        with calling_aws(f"allowing traffic within {group}"), ignoring("InvalidPermission.Duplicate"):
            allow(GroupId=group, IpPermissions=within)


def _create(account: Account, settings: AwsSettings, name: str, tags: Mapping[str, str]) -> str:
    """Create the group; an existing group with its name and tags is from a call whose response was lost."""
    ec2 = account.client("ec2")
    network = _network(ec2, settings.subnet)
    with ignoring("InvalidGroup.Duplicate"):
        return str(
            ec2.create_security_group(
                GroupName=name,
                Description="SSH to an instance that builds or checks an image",
                TagSpecifications=specifications(tags, ["security-group"]),
                **network,
            )["GroupId"]
        )
    own = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
    named = {"Name": "group-name", "Values": [name]}
    found = ec2.describe_security_groups(Filters=[named, *own])["SecurityGroups"]
    if not found:
        raise BuildError(
            f"the security group {name} exists in {account.region}, and this run did not create it",
            hint="build again: each run has a name of its own",
        )
    return str(found[0]["GroupId"])


def _network(ec2: Any, subnet: str) -> Resource:
    """Return the argument for the VPC of a subnet; empty without a subnet, which selects the default VPC."""
    if not subnet:
        return {}
    return {"VpcId": ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]}


def source_networks(account: Account, settings: AwsSettings) -> tuple[str, ...]:
    """Return the networks that may log in: those in site.toml, or else this host's address."""
    if settings.source_cidrs:
        return settings.source_cidrs
    if account.is_on_this_machine:
        return (_LOOPBACK,)
    if settings.ssh_interface in ("", "public_ip") and has_public_address(account, settings):
        raise no_source_networks("the public address of this host is unknown")
    return (f"{_own_address()}/32",)


def has_public_address(account: Account, settings: AwsSettings) -> bool:
    """True if instances get a public address: by the site's setting, or else by the subnet's."""
    if settings.public_address is not None:
        return settings.public_address
    default = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    wanted = {"SubnetIds": [settings.subnet]} if settings.subnet else default
    with calling_aws("describing the subnet of build instances"):
        found = account.client("ec2").describe_subnets(**wanted)["Subnets"]
    return any(subnet["MapPublicIpOnLaunch"] for subnet in found)


def no_source_networks(reason: str) -> UsageError:
    return UsageError(
        f"aws.source_cidrs is not set, and {reason}",
        hint='set aws.source_cidrs = ["ADDRESS/32"] in site.toml to the address that this host connects from',
    )


def _own_address() -> str:
    """Return this host's address in its private network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError as error:
            raise no_source_networks(f"this host has no route to a network ({error.strerror})") from error
        return str(probe.getsockname()[0])


def _permission(account: Account, settings: AwsSettings) -> Resource:
    cidrs = source_networks(account, settings)
    return {
        "IpProtocol": "tcp",
        "FromPort": _SSH,
        "ToPort": _SSH,
        "IpRanges": [{"CidrIp": cidr} for cidr in cidrs],
    }


def delete(
    account: Account,
    region: str,
    group: str,
    *,
    cancelled: threading.Event | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> bool:
    """Delete a group; return False if an instance, even a terminated one, uses it until the timeout.

    `meanwhile` is called whenever the group is found in use.
    """
    ec2 = account.client("ec2", region)

    def is_gone() -> bool:
        with calling_aws(f"deleting {group}"), ignoring("DependencyViolation"):
            with ignoring("InvalidGroup.NotFound", "InvalidGroupId.NotFound"):
                ec2.delete_security_group(GroupId=group)
            return True
        meanwhile()
        return False

    return until(is_gone, timeout_s=_RELEASE_S, every_s=account.polling, cancelled=cancelled)


def in_use(group: str, region: str) -> BuildError:
    """Return the error for a group that could not be deleted."""
    return BuildError(
        f"security group {group} in {region} was not deleted: still in use after {_RELEASE_S:.0f} s",
        hint=f"aws ec2 describe-network-interfaces --region {region} --filters Name=group-id,Values={group};"
        " delete the resources that use it, then: builder clean",
    )
