"""Find, complete, list and delete checkpoints in an account: the intermediate images of AMI builds.

A checkpoint is complete once it has the tag CHECKPOINT_TAG. Until then no build uses it, and the cleanup of
its run deletes it. It has no tag of a target, so no command lists, publishes or shares it as an AMI.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.adapters.ami import steps as steps
from builder.adapters.ami.steps import AmiRef, snapshots_of
from builder.adapters.aws.account import Account, Resource, tags_of
from builder.checkpoints import Checkpoint
from builder.marks import (
    BUILDER_TAG,
    CHECKPOINT_TAG,
    DISK_TAG,
    IMAGE_TAG,
    KEY_TAG,
    LAYER_TAG,
    RUN_TAG,
    SECONDS_TAG,
    SYSTEM_TAG,
    TARGET_TAG,
)
from builder.model import Plan
from builder.site import AwsSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A complete checkpoint; `image` is EC2's description of its AMI."""

    checkpoint: Checkpoint
    image: Resource

    @property
    def ami(self) -> str:
        return str(self.image["ImageId"])

    @property
    def saves_s(self) -> float:
        """The build time of the checkpoint's layers, as measured by the build; 0 if unknown."""
        text = tags_of(self.image).get(SECONDS_TAG, "")
        return float(text) if text.isdecimal() else 0.0

    @property
    def size_gib(self) -> int:
        return size_of(self.image)


def is_encrypted(plan: Plan, settings: AwsSettings) -> bool:
    """True if the site encrypts AMIs and the plan's target allows encryption."""
    assert plan.target.ami is not None
    return settings.encrypt and plan.target.ami.encryptable


def disk_of(plan: Plan, settings: AwsSettings) -> str:
    """Return how the disks of a plan's images are encrypted; a checkpoint must be encrypted likewise."""
    if not is_encrypted(plan, settings):
        return "not encrypted"
    return f"encrypted {settings.kms_key}".rstrip()


def tags_for(
    plan: Plan, checkpoint: Checkpoint, common: Mapping[str, str], settings: AwsSettings
) -> dict[str, str]:
    """Return the tags of an incomplete checkpoint; `common` has the tags of the plan's AMI."""
    kept = {name: value for name, value in common.items() if name not in (TARGET_TAG, KEY_TAG)}
    label = f"{plan.target.name}/{checkpoint.name}"
    return {**kept, LAYER_TAG: label, DISK_TAG: disk_of(plan, settings)}


def complete(account: Account, ami: str, checkpoint: Checkpoint, *, seconds: float) -> None:
    """Mark a checkpoint as complete; `seconds` is the time to build all of its layers."""
    ref = AmiRef(account=account, region=account.region, ami=ami)
    steps.tag(ref, {CHECKPOINT_TAG: checkpoint.key, SECONDS_TAG: f"{seconds:.0f}"})


def deepest(account: Account, plan: Plan, wanted: Iterable[Checkpoint], settings: AwsSettings) -> Kept | None:
    """Return the checkpoint in `wanted` with the most layers that a build of the plan can start from."""
    for checkpoint in sorted(wanted, key=lambda each: -len(each.layers)):
        for image in account.images({CHECKPOINT_TAG: checkpoint.key}):
            if _is_usable(image, plan, settings):
                return Kept(checkpoint=checkpoint, image=image)
    return None


def _is_usable(image: Resource, plan: Plan, settings: AwsSettings) -> bool:
    assert plan.target.ami is not None
    tags = tags_of(image)
    is_own = bool(tags.get(RUN_TAG)) and bool(tags.get(BUILDER_TAG))
    fits = size_of(image) <= plan.target.ami.volume_gib and tags.get(DISK_TAG) == disk_of(plan, settings)
    return image["State"] == "available" and is_own and fits


def size_of(image: Resource) -> int:
    """Return the size of an image's disks in GiB."""
    disks = (disk.get("Ebs", {}) for disk in image.get("BlockDeviceMappings", ()))
    return sum(int(disk.get("VolumeSize", 0)) for disk in disks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Removable:
    """A checkpoint that exceeds the site's limit, or a snapshot without its image."""

    account: Account
    id: str
    layer: str  # target and layer, such as ami-gpu/cuda
    size_gib: int

    def remove(self) -> None:
        if self.id.startswith("snap-"):
            steps.remove_snapshot(self.account, self.account.region, self.id)
        else:
            ref = AmiRef(account=self.account, region=self.account.region, ami=self.id)
            steps.remove(ref, {IMAGE_TAG: self.id})


def removable(account: Account, builder: str, *, keep_last: int) -> list[Removable]:
    """Return the checkpoints that this builder may delete: all but the newest `keep_last` of each group.

    A group is one target, layer and system. The result includes snapshots that remain because the
    deletion of their checkpoint was interrupted.
    """
    own = [image for image in account.images_with_tag(CHECKPOINT_TAG) if _belongs(image, builder)]
    groups: dict[tuple[str, str], list[Resource]] = {}
    for image in own:  # newest first
        tags = tags_of(image)
        groups.setdefault((tags.get(LAYER_TAG, ""), tags.get(SYSTEM_TAG, "")), []).append(image)
    found = [
        Removable(account=account, id=image["ImageId"], layer=layer, size_gib=size_of(image))
        for (layer, _), images in groups.items()
        for image in images[keep_last:]
    ]
    used = {snapshot for image in own for snapshot in snapshots_of(image)}
    filters = {"tag-key": [CHECKPOINT_TAG], f"tag:{BUILDER_TAG}": [builder]}
    return found + [
        Removable(
            account=account,
            id=snapshot["SnapshotId"],
            layer=tags_of(snapshot).get(LAYER_TAG, ""),
            size_gib=int(snapshot.get("VolumeSize", 0)),
        )
        for snapshot in steps.snapshots(account, account.region, filters)
        if snapshot["SnapshotId"] not in used
    ]


def _belongs(image: Resource, builder: str) -> bool:
    return tags_of(image).get(BUILDER_TAG) == builder
