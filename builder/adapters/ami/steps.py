"""Idempotent operations on one AMI in one region, which read the current state and change only what differs.

This module knows neither plans nor the order of a publication.
"""

import datetime
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.adapters.aws.account import Account, Resource, as_tags, calling_aws, ignoring, tags_of
from builder.errors import PublishError
from builder.marks import BUILDER_TAG, IMAGE_TAG, RUN_TAG
from builder.wait import Backoff, T, until

AGAIN = "re-run the command; it resumes"
_IMAGE_TYPE = "aws:ec2:image"
_PROTECTED = "enabled"
_VISIBLE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Poll interval and timeouts for waiting, and the event that cancels a wait."""

    every_s: float | Backoff
    copy_s: float
    appear_s: float = 60.0  # EC2 may not find a new id at first
    cancelled: threading.Event

    def until(self, condition: Callable[[], T], *, timeout_s: float) -> T:
        return until(condition, timeout_s=timeout_s, every_s=self.every_s, cancelled=self.cancelled)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """Accounts and organizations that may start an image besides its owner."""

    accounts: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()  # ARNs of organizations or organizational units

    def __bool__(self) -> bool:
        return bool(self.accounts or self.organizations)

    @property
    def permissions(self) -> list[dict[str, str]]:
        return [
            *({"UserId": account} for account in self.accounts),
            *(
                {"OrganizationArn" if ":organization/" in arn else "OrganizationalUnitArn": arn}
                for arn in self.organizations
            ),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiRef:
    """Reference to an AMI: account, region and id."""

    account: Account
    region: str
    ami: str

    def __str__(self) -> str:
        return f"{self.region}/{self.ami}"

    @property
    def ec2(self) -> Any:
        return self.account.client("ec2", self.region)

    def find(self) -> Resource | None:
        return self.account.image(self.ami, region=self.region)

    def load(self) -> Resource:
        found = self.find()
        if found is None:
            raise PublishError(f"{self} does not exist", hint="builder build TARGET --publish")
        return found


def snapshots_of(image: Resource) -> list[str]:
    found = (disk.get("Ebs", {}).get("SnapshotId") for disk in image.get("BlockDeviceMappings", ()))
    return [snapshot for snapshot in found if snapshot]


def require_tokens(ref: AmiRef) -> None:
    """Require metadata tokens (IMDSv2) on the image's instances; EC2 cannot undo this setting."""
    if ref.load().get("ImdsSupport") != "v2.0":
        with calling_aws(f"requiring metadata tokens of instances of {ref}"):
            ref.ec2.modify_image_attribute(ImageId=ref.ami, ImdsSupport={"Value": "v2.0"})


def tag(ref: AmiRef, wanted: Mapping[str, str]) -> None:
    """Add tags to the image and to its snapshots, where they are missing."""
    image = ref.load()
    missing = [] if wanted.items() <= tags_of(image).items() else [ref.ami]
    _tag(ref, [*missing, *_lacking(ref, snapshots_of(image), wanted)], wanted)


def _lacking(ref: AmiRef, among: list[str], wanted: Mapping[str, str]) -> list[str]:
    """Return the snapshots that lack at least one of the tags."""
    if not among:
        return []
    with calling_aws(f"describing the snapshots of {ref}"):
        found = ref.ec2.describe_snapshots(SnapshotIds=among)["Snapshots"]
    return [snapshot["SnapshotId"] for snapshot in found if not wanted.items() <= tags_of(snapshot).items()]


def _tag(ref: AmiRef, resources: list[str], wanted: Mapping[str, str]) -> None:
    if resources:
        with calling_aws(f"tagging {ref}"):
            ref.ec2.create_tags(Resources=resources, Tags=as_tags(wanted))


def shared_with(ref: AmiRef) -> list[dict[str, str]]:
    with calling_aws(f"reading the launch permissions of {ref}"):
        answer = ref.ec2.describe_image_attribute(ImageId=ref.ami, Attribute="launchPermission")
    return list(answer.get("LaunchPermissions", ()))


def share(ref: AmiRef, sharing: Sharing) -> None:
    """Grant launch permission; accounts (not organizations) also get createVolumePermission on snapshots."""
    if not sharing:
        return
    there = shared_with(ref)
    missing = [permission for permission in sharing.permissions if permission not in there]
    if missing:
        with calling_aws(f"sharing {ref}"):
            ref.ec2.modify_image_attribute(ImageId=ref.ami, LaunchPermission={"Add": missing})
    for snapshot in snapshots_of(ref.load()) if sharing.accounts else ():
        absent = [account for account in sharing.accounts if account not in _volume_accounts(ref, snapshot)]
        if absent:
            with calling_aws(f"sharing {snapshot} of {ref}"):
                ref.ec2.modify_snapshot_attribute(
                    SnapshotId=snapshot,
                    Attribute="createVolumePermission",
                    OperationType="add",
                    UserIds=absent,
                )


def _volume_accounts(ref: AmiRef, snapshot: str) -> set[str]:
    with calling_aws(f"reading the permissions of {snapshot}"):
        answer = ref.ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
    return {grant["UserId"] for grant in answer.get("CreateVolumePermissions", ()) if "UserId" in grant}


def is_shared(ref: AmiRef, image: Resource, sharing: Sharing) -> bool:
    if not sharing:
        return True
    there = shared_with(ref)
    if any(permission not in there for permission in sharing.permissions):
        return False
    return all(set(sharing.accounts) <= _volume_accounts(ref, disk) for disk in snapshots_of(image))


def deprecate(ref: AmiRef, *, after_days: int, again: bool = False) -> None:
    """Set the deprecation date to `after_days` from now; keep an existing date unless `again` is set."""
    if not after_days or (ref.load().get("DeprecationTime") and not again):
        return
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=after_days)
    with calling_aws(f"deprecating {ref}"):
        ref.ec2.enable_image_deprecation(ImageId=ref.ami, DeprecateAt=moment)


def is_protected(image: Resource) -> bool:
    return str(image.get("DeregistrationProtection", "")).startswith(_PROTECTED)


def protect(ref: AmiRef) -> None:
    if not is_protected(ref.load()):
        with calling_aws(f"enabling the deregistration protection of {ref}"):
            ref.ec2.enable_image_deregistration_protection(ImageId=ref.ami)


def remove(ref: AmiRef, mark: Mapping[str, str]) -> None:
    """Delete an AMI and its snapshots; resources that are already deleted are ignored.

    The AMI and its snapshots get the tags of `mark` first: snapshots of a deleted image can only be found by
    tag, and a policy may restrict deletion to tagged resources. Snapshots that were not made for this image
    are kept.
    """
    image = ref.find()
    if image is None:
        return
    found = _own_snapshots(ref, image)
    if is_protected(image):
        with calling_aws(f"disabling the deregistration protection of {ref}"):
            ref.ec2.disable_image_deregistration_protection(ImageId=ref.ami)
    unmarked = [] if mark.items() <= tags_of(image).items() else [ref.ami]
    _tag(ref, [*unmarked, *_lacking(ref, found, mark)], mark)
    with calling_aws(f"deregistering {ref}"), ignoring("InvalidAMIID.Unavailable", "InvalidAMIID.NotFound"):
        ref.ec2.deregister_image(ImageId=ref.ami)
    for snapshot in found:
        remove_snapshot(ref.account, ref.region, snapshot)


def _own_snapshots(ref: AmiRef, image: Resource) -> list[str]:
    """Return the snapshots made for an image; if it lists none yet, find them by their description."""
    listed = snapshots_of(image)
    filters = {"snapshot-id": listed} if listed else {"description": [f"*{ref.ami}*"]}
    found = snapshots(ref.account, ref.region, filters)
    return [snapshot["SnapshotId"] for snapshot in found if _is_made_for(ref, image, snapshot)]


def _is_made_for(ref: AmiRef, image: Resource, snapshot: Resource) -> bool:
    """True if a snapshot has the run tags of its image, or no tags and a description with the image's id."""
    tags, expected = own_tags(snapshot), tags_of(image)
    if tags.get(IMAGE_TAG) == ref.ami:
        return True
    if tags:
        return RUN_TAG in tags and all(
            tags.get(name) == expected.get(name) for name in (RUN_TAG, BUILDER_TAG)
        )
    made_for = rf"(for|DestinationAmi) {re.escape(ref.ami)}\b"
    return bool(re.search(made_for, snapshot.get("Description", "")))


def own_tags(resource: Resource) -> dict[str, str]:
    """Return the tags without those that only AWS may set."""
    return {name: value for name, value in tags_of(resource).items() if not name.startswith("aws:")}


def remove_snapshot(account: Account, region: str, snapshot: str) -> None:
    with calling_aws(f"deleting {region}/{snapshot}"), ignoring("InvalidSnapshot.NotFound"):
        account.client("ec2", region).delete_snapshot(SnapshotId=snapshot)


def snapshots(account: Account, region: str, filters: Mapping[str, Sequence[str]]) -> list[Resource]:
    """Return the account's own snapshots that match all filters."""
    with calling_aws(f"listing snapshots in {region}"):
        pages = account.client("ec2", region).get_paginator("describe_snapshots")
        asked = [{"Name": name, "Values": list(values)} for name, values in filters.items()]
        return [
            snapshot
            for page in pages.paginate(OwnerIds=["self"], Filters=asked)
            for snapshot in page["Snapshots"]
        ]


# SSM parameters.


def read_parameters(account: Account, region: str, names: Iterable[str]) -> dict[str, str]:
    """Return the values of existing SSM parameters by name; SSM accepts at most ten names per call."""
    with calling_aws(f"reading parameters in {region}"):
        answer = account.client("ssm", region).get_parameters(Names=list(names))
    return {parameter["Name"]: parameter["Value"] for parameter in answer["Parameters"]}


def point(ref: AmiRef, name: str, patience: Patience, *, tier: str = "", again: bool = False) -> None:
    """Point the parameter at the AMI and wait until SSM returns the AMI: it validates AMIs asynchronously.

    `tier` is the parameter's tier, by default unchanged; `again` also writes an unchanged value.
    """
    if not again and read_parameters(ref.account, ref.region, [name]).get(name) == ref.ami:
        return
    with calling_aws(f"writing {name} in {ref.region}"):
        ref.account.client("ssm", ref.region).put_parameter(
            Name=name,
            Value=ref.ami,
            Type="String",
            DataType=_IMAGE_TYPE,
            Overwrite=True,
            **({"Tier": tier} if tier else {}),
        )

    def is_visible() -> bool:
        return read_parameters(ref.account, ref.region, [name]).get(name) == ref.ami

    if not patience.until(is_visible, timeout_s=_VISIBLE_S):
        raise PublishError(f"{name} in {ref.region} still does not point to {ref.ami}", hint=AGAIN)


def parameters_to(account: Account, region: str, prefix: str, amis: Iterable[str]) -> dict[str, str]:
    """Return the SSM parameters below `prefix` that point to one of these AMIs: AMI id by parameter name."""
    wanted = set(amis)
    with calling_aws(f"reading parameters in {region}"):
        pages = account.client("ssm", region).get_paginator("get_parameters_by_path")
        found = [
            (parameter["Name"], parameter["Value"])
            for page in pages.paginate(Path=prefix, Recursive=True)
            for parameter in page["Parameters"]
        ]
    return {name: ami for name, ami in found if ami in wanted}


def remove_parameters(account: Account, region: str, names: Sequence[str]) -> None:
    for start in range(0, len(names), 10):
        with calling_aws(f"deleting parameters in {region}"):
            account.client("ssm", region).delete_parameters(Names=list(names[start : start + 10]))
