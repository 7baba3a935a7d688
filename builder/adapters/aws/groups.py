"""The security group around the machines of a run: SSH from where the site says, and nothing else.

Ours and not Packer's: it has the run's name and tags from its first moment, in every version of Packer, and
the machine that is checked is reached through it as well.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from builder.adapters.aws.account import Account, Resource, calling_aws, ignoring, specifications
from builder.errors import BuildError
from builder.site import AwsSettings
from builder.wait import until

# Who may come in where the site does not say: whoever has the run's key; on this machine, itself.
_ANYWHERE, _HERE = "0.0.0.0/0", "127.0.0.0/8"
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
) -> Iterator[str]:
    """The id of the site's own group, or of one that exists as long as the block.

    `on_left` is told the id of a group that could not be deleted, because something still uses it.
    """
    if settings.security_group:
        yield settings.security_group
        return
    with calling_aws(f"making the security group {name}"):
        group = _make(account, settings, name, tags)
    try:
        with calling_aws(f"opening {group} for SSH"), ignoring("InvalidPermission.Duplicate"):
            account.client("ec2").authorize_security_group_ingress(
                GroupId=group, IpPermissions=[_permission(account, settings)]
            )
        yield group
    finally:
        if not delete(account, account.region, group, cancelled=cancelled):
            on_left(group)


def _make(account: Account, settings: AwsSettings, name: str, tags: Mapping[str, str]) -> str:
    """The name is the run's own: a group that has it already is ours, and its answer was lost on the way."""
    ec2 = account.client("ec2")
    network = _network(ec2, settings.subnet)
    with ignoring("InvalidGroup.Duplicate"):
        return str(
            ec2.create_security_group(
                GroupName=name,
                Description="SSH to a machine that an image is made or checked on",
                TagSpecifications=specifications(tags, ["security-group"]),
                **network,
            )["GroupId"]
        )
    found = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])
    return str(found["SecurityGroups"][0]["GroupId"])


def _network(ec2: Any, subnet: str) -> Resource:
    """The one of the subnet; without it the account's default one is meant."""
    if not subnet:
        return {}
    return {"VpcId": ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]}


def _permission(account: Account, settings: AwsSettings) -> Resource:
    cidrs = settings.source_cidrs or (_HERE if account.is_on_this_machine else _ANYWHERE,)
    return {
        "IpProtocol": "tcp",
        "FromPort": _SSH,
        "ToPort": _SSH,
        "IpRanges": [{"CidrIp": one} for one in cidrs],
    }


def delete(account: Account, region: str, group: str, *, cancelled: threading.Event | None = None) -> bool:
    """Deletes a group, if that is possible in time: an instance uses it until a moment after its end."""
    ec2 = account.client("ec2", region)

    def is_gone() -> bool:
        with calling_aws(f"deleting {group}"), ignoring("DependencyViolation"):
            with ignoring("InvalidGroup.NotFound", "InvalidGroupId.NotFound"):
                ec2.delete_security_group(GroupId=group)
            return True
        return False

    return until(is_gone, timeout_s=_RELEASE_S, every_s=account.polling, cancelled=cancelled)


def in_use(group: str, region: str) -> BuildError:
    """The error of a group that could not be deleted."""
    return BuildError(
        f"security group {group} in {region} was not deleted: still in use after {_RELEASE_S:.0f} s",
        hint=f"aws ec2 describe-network-interfaces --region {region} --filters Name=group-id,Values={group};"
        " remove what uses it, then: builder clean",
    )
