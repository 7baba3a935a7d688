"""Find AMIs that exceed the site's limit, and delete these AMIs with their snapshots.

The limit counts the images of one target, system and architecture in one region. An image that an
instance, an SSM parameter, or the latest or default version of a launch template uses is kept whatever the
limit is. Uses by other versions of launch templates and by other accounts are not detected.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from builder.adapters.ami import steps as steps
from builder.adapters.ami.family import in_all_regions
from builder.adapters.ami.publisher import Names
from builder.adapters.ami.steps import AmiRef
from builder.adapters.aws.account import Account, Resource, calling_aws, tags_of
from builder.errors import BuildError
from builder.marks import BUILDER_TAG, IMAGE_TAG, KEY_TAG, RUN_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG

_MOST_VALUES = 200  # of a filter of EC2
_ALIVE = ("pending", "running", "stopping", "stopped")
# Tags that every build sets: an image without one of them was not made by a build.
_TAGS = (TARGET_TAG, SYSTEM_TAG, STACK_TAG, KEY_TAG, RUN_TAG, BUILDER_TAG)


@dataclass(frozen=True, kw_only=True, slots=True)
class Surplus:
    """An AMI beyond the limit, or a snapshot left by an interrupted deletion; `use`: what uses the AMI."""

    ref: AmiRef  # the AMI, which may be deleted already
    target: str
    prefix: str
    snapshot: str = ""
    use: str = ""

    def __str__(self) -> str:
        return f"{self.ref.region}/{self.snapshot or self.ref.ami}"

    def remove(self) -> None:
        """Delete the AMI with its snapshots and its own SSM parameter, unless the AMI is now in use."""
        account, region, ami = self.ref.account, self.ref.region, self.ref.ami
        if self.snapshot:
            steps.remove_snapshot(account, region, self.snapshot)
            return
        if (image := self.ref.find()) is None:
            return
        if use := _uses(account, region, [image], self.prefix).get(ami, ""):
            raise BuildError(
                f"{self} was not deleted: {use}", hint="builder clean; it lists the AMIs not in use"
            )
        if steps.read_parameters(account, region, [name := _own_name(image, self.prefix)]).get(name) == ami:
            steps.remove_parameters(account, region, [name])
        steps.remove(self.ref, {IMAGE_TAG: ami})


def surplus(account: Account, regions: Sequence[str], prefix: str, *, keep_last: int) -> list[Surplus]:
    """Return all AMIs, from all builders, except the newest `keep_last` of each target; newest first.

    Skips regions in which the account may not list the uses of images.
    """

    def list_region(region: str) -> Iterable[Surplus]:
        return list(_in_region(account, region, prefix, keep_last))

    return in_all_regions(account, regions, list_region)


def _in_region(account: Account, region: str, prefix: str, keep_last: int) -> Iterator[Surplus]:
    own = [
        image
        for image in account.images_with_tag(TARGET_TAG, region=region)
        if set(_TAGS) <= {*tags_of(image)}
    ]
    groups: dict[tuple[str, ...], list[Resource]] = {}
    for image in own:  # newest first
        if image["State"] == "available":
            tags = tags_of(image)
            group = (tags[TARGET_TAG], tags[SYSTEM_TAG], image.get("Architecture", ""))
            groups.setdefault(group, []).append(image)
    old = [image for images in groups.values() for image in images[keep_last:]]
    uses = _uses(account, region, old, prefix) if old else {}
    for image in old:
        ref = AmiRef(account=account, region=region, ami=image["ImageId"])
        target = tags_of(image)[TARGET_TAG]
        yield Surplus(ref=ref, target=target, prefix=prefix, use=uses.get(ref.ami, ""))
    yield from _left_snapshots(account, region, prefix)


def _left_snapshots(account: Account, region: str, prefix: str) -> Iterator[Surplus]:
    """Yield the snapshots that an interrupted deletion left after it deregistered their AMI."""
    for snapshot in steps.snapshots(account, region, {"tag-key": [IMAGE_TAG]}):
        tags = tags_of(snapshot)
        ref = AmiRef(account=account, region=region, ami=tags[IMAGE_TAG])
        if set(_TAGS) <= {*tags} and ref.find() is None:
            yield Surplus(ref=ref, target=tags[TARGET_TAG], prefix=prefix, snapshot=snapshot["SnapshotId"])


def _uses(account: Account, region: str, images: Sequence[Resource], prefix: str) -> dict[str, str]:
    """Return what uses images, by AMI id: SSM parameters, instances and launch templates of the account.

    The SSM parameter of an image's own version does not count: every published image has one.
    """
    by_id = {image["ImageId"]: image for image in images}
    ec2, found = account.client("ec2", region), dict[str, str]()
    with calling_aws(f"listing launch templates in {region}"):
        pages = ec2.get_paginator("describe_launch_template_versions").paginate(
            Versions=["$Latest", "$Default"]
        )
        for version in (version for page in pages for version in page["LaunchTemplateVersions"]):
            ami = version["LaunchTemplateData"].get("ImageId", "")
            found[ami] = f"launch template {version['LaunchTemplateName']} names it"
    for instance in _instances(account, region, list(by_id)):
        found[instance["ImageId"]] = f"instance {instance['InstanceId']} was started from it"
    for name, ami in steps.parameters_to(account, region, prefix, by_id).items():
        if name != _own_name(by_id[ami], prefix):
            found[ami] = f"{name} points to it"
    return {ami: use for ami, use in found.items() if ami in by_id}


def _instances(account: Account, region: str, images: Sequence[str]) -> Iterator[Resource]:
    """Yield the instances of images, in several requests: an EC2 filter takes at most 200 values."""
    pages = account.client("ec2", region).get_paginator("describe_instances")
    with calling_aws(f"listing instances in {region}"):
        for start in range(0, len(images), _MOST_VALUES):
            filters = [
                {"Name": "image-id", "Values": images[start : start + _MOST_VALUES]},
                {"Name": "instance-state-name", "Values": list(_ALIVE)},
            ]
            for page in pages.paginate(Filters=filters):
                yield from (each for group in page["Reservations"] for each in group["Instances"])


def _own_name(image: Resource, prefix: str) -> str:
    return Names.of(prefix, tags_of(image), image.get("Architecture", "")).fixed
