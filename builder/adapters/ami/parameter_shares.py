"""Let other accounts read SSM parameters: one resource share of AWS RAM in each region.

Parameters must be of the advanced tier. Other accounts read them by their full ARN.
"""

from collections.abc import Iterable
from typing import Any

from builder.adapters.ami.steps import Sharing
from builder.adapters.aws.account import Account, calling_aws, ignoring
from builder.marks import BUILDER_TAG

_LIVE = ("ACTIVE", "PENDING")
_ASSOCIATED = ("ASSOCIATED", "ASSOCIATING")


def share_name(prefix: str) -> str:
    """Return the name of the resource share for all parameters below a prefix."""
    return prefix.strip("/").replace("/", "-")


def share(
    account: Account, region: str, names: Iterable[str], sharing: Sharing, *, prefix: str, builder: str
) -> list[str]:
    """Let the accounts of `sharing` read existing parameters; return the ARNs of the parameters."""
    ram = account.client("ram", region)
    resources, principals = _arns(account, region, names), [*sharing.accounts, *sharing.organizations]
    with calling_aws(f"sharing parameters in {region}"):
        found = _find(ram, share_name(prefix))
        if found is None:
            ram.create_resource_share(
                name=share_name(prefix),
                resourceArns=resources,
                principals=principals,
                tags=[{"key": BUILDER_TAG, "value": builder}],
            )
            return resources
        asked = {
            "resourceArns": _lacking(ram, found, "RESOURCE", resources),
            "principals": _lacking(ram, found, "PRINCIPAL", principals),
        }
        if any(asked.values()):
            ram.associate_resource_share(
                resourceShareArn=found, **{key: values for key, values in asked.items() if values}
            )
    return resources


def is_shared(account: Account, region: str, names: Iterable[str], sharing: Sharing, *, prefix: str) -> bool:
    """True if the accounts of `sharing` may read these parameters."""
    ram, principals = account.client("ram", region), [*sharing.accounts, *sharing.organizations]
    with calling_aws(f"reading resource shares in {region}"):
        found = _find(ram, share_name(prefix))
        if found is None or _lacking(ram, found, "PRINCIPAL", principals):
            return False
        return not _lacking(ram, found, "RESOURCE", _arns(account, region, names))


def own_shares(account: Account, region: str) -> list[tuple[str, str]]:
    """Return (ARN, name) of the resource shares that a builder created; empty if AWS denies the list."""
    tag = {"tagKey": BUILDER_TAG}
    found: list[tuple[str, str]] = []
    with calling_aws(f"listing resource shares in {region}"), ignoring("AccessDeniedException"):
        pages = account.client("ram", region).get_paginator("get_resource_shares")
        for page in pages.paginate(resourceOwner="SELF", tagFilters=[tag]):
            found += [
                (share["resourceShareArn"], share["name"])
                for share in page["resourceShares"]
                if share["status"] in _LIVE
            ]
    return found


def delete_share(account: Account, region: str, arn: str) -> None:
    with calling_aws(f"deleting {arn}"), ignoring("UnknownResourceException"):
        account.client("ram", region).delete_resource_share(resourceShareArn=arn)


def _find(ram: Any, name: str) -> str | None:
    """Return the ARN of the resource share with this name that a builder created in this account.

    Names are not unique. A share of another team with the same name would grant access to its resources.
    """
    pages = ram.get_paginator("get_resource_shares").paginate(
        resourceOwner="SELF", name=name, tagFilters=[{"tagKey": BUILDER_TAG}]
    )
    found = [share for page in pages for share in page["resourceShares"] if share["status"] in _LIVE]
    return str(found[0]["resourceShareArn"]) if found else None


def _lacking(ram: Any, share_arn: str, kind: str, wanted: Iterable[str]) -> list[str]:
    """Return the resources or principals that a resource share lacks."""
    pages = ram.get_paginator("get_resource_share_associations").paginate(
        associationType=kind, resourceShareArns=[share_arn]
    )
    there = {
        found["associatedEntity"]
        for page in pages
        for found in page["resourceShareAssociations"]
        if found["status"] in _ASSOCIATED
    }
    return [name for name in wanted if name not in there]


def _arns(account: Account, region: str, names: Iterable[str]) -> list[str]:
    with calling_aws(f"reading parameters in {region}"):
        answer = account.client("ssm", region).get_parameters(Names=list(names))
    return sorted(parameter["ARN"] for parameter in answer["Parameters"])
