"""Single steps on one AMI in one region, each of which looks first and changes only what is not so yet.

They know neither plans nor the order of things; what is asked for again costs reading calls alone.
"""

import datetime
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.adapters.aws.account import Account, Resource, as_tags, calling_aws, ignoring, tags_of
from builder.errors import PublishError
from builder.wait import Backoff, T, until

AGAIN = "run the command again: it goes on where it was"
_IMAGE_TYPE = "aws:ec2:image"
_PROTECTED = "enabled"
_VISIBLE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often to ask, how long a copy may take, and when to stop at once."""

    every_s: float | Backoff
    copy_s: float
    appear_s: float = 60.0  # EC2 may not know yet what it has just named
    cancelled: threading.Event

    def until(self, condition: Callable[[], T], *, timeout_s: float) -> T:
        return until(condition, timeout_s=timeout_s, every_s=self.every_s, cancelled=self.cancelled)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """Who may start an image besides its owner."""

    accounts: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()  # ARNs of organisations or their units

    def __bool__(self) -> bool:
        return bool(self.accounts or self.organizations)

    @property
    def permissions(self) -> list[dict[str, str]]:
        return [
            *({"UserId": one} for one in self.accounts),
            *(
                {"OrganizationArn" if ":organization/" in one else "OrganizationalUnitArn": one}
                for one in self.organizations
            ),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiRef:
    """One AMI: its id and the region where it is."""

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
            raise PublishError(f"{self} is gone", hint="builder build makes it again")
        return found


def snapshots_of(image: Resource) -> list[str]:
    found = (one.get("Ebs", {}).get("SnapshotId") for one in image.get("BlockDeviceMappings", ()))
    return [one for one in found if one]


def require_tokens(ref: AmiRef) -> None:
    """Instances of the image answer metadata requests with a token alone; EC2 knows no way back."""
    if ref.load().get("ImdsSupport") != "v2.0":
        with calling_aws(f"requiring metadata tokens of instances of {ref}"):
            ref.ec2.modify_image_attribute(ImageId=ref.ami, ImdsSupport={"Value": "v2.0"})


def tag(ref: AmiRef, wanted: Mapping[str, str]) -> None:
    """The image and its snapshots have these tags, whatever else they have."""
    image = ref.load()
    missing = [] if wanted.items() <= tags_of(image).items() else [ref.ami]
    _tag(ref, [*missing, *_lacking(ref, snapshots_of(image), wanted)], wanted)


def _lacking(ref: AmiRef, among: list[str], wanted: Mapping[str, str]) -> list[str]:
    """Snapshots without one of the tags."""
    if not among:
        return []
    with calling_aws(f"looking at the snapshots of {ref}"):
        found = ref.ec2.describe_snapshots(SnapshotIds=among)["Snapshots"]
    return [one["SnapshotId"] for one in found if not wanted.items() <= tags_of(one).items()]


def _tag(ref: AmiRef, resources: list[str], wanted: Mapping[str, str]) -> None:
    if resources:
        with calling_aws(f"tagging {ref}"):
            ref.ec2.create_tags(Resources=resources, Tags=as_tags(wanted))


def shared_with(ref: AmiRef) -> list[dict[str, str]]:
    with calling_aws(f"calling_aws whom {ref} is shared with"):
        answer = ref.ec2.describe_image_attribute(ImageId=ref.ami, Attribute="launchPermission")
    return list(answer.get("LaunchPermissions", ()))


def share(ref: AmiRef, sharing: Sharing) -> None:
    """Those may start the image; accounts may use its snapshots, which organisations cannot."""
    if not sharing:
        return
    there = shared_with(ref)
    missing = [one for one in sharing.permissions if one not in there]
    if missing:
        with calling_aws(f"sharing {ref}"):
            ref.ec2.modify_image_attribute(ImageId=ref.ami, LaunchPermission={"Add": missing})
    for snapshot in snapshots_of(ref.load()) if sharing.accounts else ():
        absent = [one for one in sharing.accounts if one not in _volume_makers(ref, snapshot)]
        if absent:
            with calling_aws(f"sharing {snapshot} of {ref}"):
                ref.ec2.modify_snapshot_attribute(
                    SnapshotId=snapshot,
                    Attribute="createVolumePermission",
                    OperationType="add",
                    UserIds=absent,
                )


def _volume_makers(ref: AmiRef, snapshot: str) -> set[str]:
    with calling_aws(f"calling_aws whom {snapshot} is shared with"):
        answer = ref.ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
    return {one["UserId"] for one in answer.get("CreateVolumePermissions", ()) if "UserId" in one}


def is_shared(ref: AmiRef, image: Resource, sharing: Sharing) -> bool:
    if not sharing:
        return True
    there = shared_with(ref)
    if any(one not in there for one in sharing.permissions):
        return False
    return all(set(sharing.accounts) <= _volume_makers(ref, one) for one in snapshots_of(image))


def deprecate(ref: AmiRef, *, after_days: int, again: bool = False) -> None:
    """Hidden from others after so many days; a date that it has stays, unless it is to be set again."""
    if not after_days or (ref.load().get("DeprecationTime") and not again):
        return
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=after_days)
    with calling_aws(f"deprecating {ref}"):
        ref.ec2.enable_image_deprecation(ImageId=ref.ami, DeprecateAt=moment)


def is_protected(image: Resource) -> bool:
    return str(image.get("DeregistrationProtection", "")).startswith(_PROTECTED)


def protect(ref: AmiRef) -> None:
    if not is_protected(ref.load()):
        with calling_aws(f"protecting {ref}"):
            ref.ec2.enable_image_deregistration_protection(ImageId=ref.ami)


def remove(ref: AmiRef, mark: Mapping[str, str]) -> None:
    """The image and its snapshots; what is gone already is no error.

    All of it is marked first: once the image is gone nothing else leads to its snapshots, and a policy
    may allow the removal of what is marked alone.
    """
    image = ref.find()
    if image is None:
        return
    found = snapshots_of(image) or _half_made(ref)
    if is_protected(image):
        with calling_aws(f"ending the protection of {ref}"):
            ref.ec2.disable_image_deregistration_protection(ImageId=ref.ami)
    unmarked = [] if mark.items() <= tags_of(image).items() else [ref.ami]
    _tag(ref, [*unmarked, *_lacking(ref, found, mark)], mark)
    with calling_aws(f"deregistering {ref}"), ignoring("InvalidAMIID.Unavailable", "InvalidAMIID.NotFound"):
        ref.ec2.deregister_image(ImageId=ref.ami)
    for snapshot in found:
        remove_snapshot(ref.account, ref.region, snapshot)


def _half_made(ref: AmiRef) -> list[str]:
    """Snapshots of an image that does not name them yet; EC2 says in them what they are for."""
    told = re.compile(rf"(for|DestinationAmi) {re.escape(ref.ami)}\b")
    found = snapshots(ref.account, ref.region, "description", [f"*{ref.ami}*"])
    return [one["SnapshotId"] for one in found if told.search(one.get("Description", ""))]


def own_tags(resource: Resource) -> dict[str, str]:
    """Without those that only AWS may set."""
    return {name: value for name, value in tags_of(resource).items() if not name.startswith("aws:")}


def remove_snapshot(account: Account, region: str, snapshot: str) -> None:
    with calling_aws(f"deleting {region}/{snapshot}"), ignoring("InvalidSnapshot.NotFound"):
        account.client("ec2", region).delete_snapshot(SnapshotId=snapshot)


def snapshots(account: Account, region: str, name: str, values: Sequence[str]) -> list[Resource]:
    """The account's own by one filter."""
    with calling_aws(f"looking for snapshots in {region}"):
        pages = account.client("ec2", region).get_paginator("describe_snapshots")
        filters = [{"Name": name, "Values": list(values)}]
        return [
            one for page in pages.paginate(OwnerIds=["self"], Filters=filters) for one in page["Snapshots"]
        ]


# Parameters that lead to images.


def read_parameters(account: Account, region: str, names: Iterable[str]) -> dict[str, str]:
    """Those that exist, by name; as many as ten at once."""
    with calling_aws(f"reading parameters in {region}"):
        answer = account.client("ssm", region).get_parameters(Names=list(names))
    return {one["Name"]: one["Value"] for one in answer["Parameters"]}


def point(ref: AmiRef, name: str, patience: Patience) -> None:
    """The parameter leads to the image; it is read back, because an image is looked at after the answer."""
    if read_parameters(ref.account, ref.region, [name]).get(name) == ref.ami:
        return
    with calling_aws(f"writing {name} in {ref.region}"):
        ref.account.client("ssm", ref.region).put_parameter(
            Name=name, Value=ref.ami, Type="String", DataType=_IMAGE_TYPE, Overwrite=True
        )

    def is_there() -> bool:
        return read_parameters(ref.account, ref.region, [name]).get(name) == ref.ami

    if not patience.until(is_there, timeout_s=_VISIBLE_S):
        raise PublishError(f"{name} in {ref.region} does not lead to {ref.ami}", hint=AGAIN)


def parameters_to(account: Account, region: str, prefix: str, amis: Iterable[str]) -> dict[str, str]:
    """Parameters below `prefix` that lead to one of the images, with the image."""
    wanted = set(amis)
    with calling_aws(f"reading parameters in {region}"):
        pages = account.client("ssm", region).get_paginator("get_parameters_by_path")
        found = [one for page in pages.paginate(Path=prefix, Recursive=True) for one in page["Parameters"]]
    return {one["Name"]: one["Value"] for one in found if one["Value"] in wanted}


def remove_parameters(account: Account, region: str, names: Sequence[str]) -> None:
    for start in range(0, len(names), 10):
        with calling_aws(f"deleting parameters in {region}"):
            account.client("ssm", region).delete_parameters(Names=list(names[start : start + 10]))
