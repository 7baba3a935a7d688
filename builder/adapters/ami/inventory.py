"""List and delete all resources that any builder created in an account, in all regions.

A resource belongs to the factory if it has the tags of a run and of a builder. Every request that creates a
resource sets these tags. An SSM parameter belongs to the factory if it is below the site's prefix and points
to an image of the factory, and a stack if it has the tag of `builder deploy`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.adapters.ami import spot
from builder.adapters.ami import steps as steps
from builder.adapters.ami.family import in_all_regions
from builder.adapters.ami.parameter_shares import delete_share, own_shares
from builder.adapters.ami.steps import AmiRef
from builder.adapters.aws import groups, stacks
from builder.adapters.aws.account import Account, Resource, calling_aws, ignoring, is_denied, tags_of
from builder.errors import BuildError, MissingError
from builder.marks import ARCHITECTURE_TAG, BUILDER_TAG, RUN_TAG, TARGET_TAG
from builder.wait import until

_END_S = 300.0
_ALIVE = ("pending", "running", "stopping", "stopped", "shutting-down")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Resource in a region; `kind` is a key of `_DELETIONS`."""

    kind: str
    region: str
    id: str
    text: str = ""  # target, name or state
    order: int = 0  # of deletion among items of the same kind and region

    def __str__(self) -> str:
        return f"{self.region} {self.kind} {self.id}"


# By kind of resource: EC2's describe operation, the keys of the list and of the id, and additional filters.
_LISTINGS: Mapping[str, tuple[str, str, str, Mapping[str, tuple[str, ...]]]] = {
    "key pair": ("describe_key_pairs", "KeyPairs", "KeyName", {}),
    "security group": ("describe_security_groups", "SecurityGroups", "GroupId", {}),
    "volume": ("describe_volumes", "Volumes", "VolumeId", {"status": ("available",)}),
    "snapshot": ("describe_snapshots", "Snapshots", "SnapshotId", {}),
}


def everything(
    account: Account, regions: Iterable[str], prefix: str, note: Callable[[str], object] = lambda _: None
) -> list[Item]:
    """Return all resources of the factory, in the order in which they can be deleted.

    `note` gets a message about resources that cannot be listed.
    """
    unlisted: list[str] = []
    found = in_all_regions(
        account, tuple(regions), lambda region: list(_in_region(account, region, prefix, unlisted.append))
    )
    for message in sorted(set(unlisted)):
        note(message)
    kinds = list(_DELETIONS)
    return sorted(found, key=lambda item: (kinds.index(item.kind), item.region, item.order, item.id))


def _in_region(account: Account, region: str, prefix: str, note: Callable[[str], object]) -> Iterator[Item]:
    yield from _stacks(account, region, note)
    ec2 = account.client("ec2", region)
    images = _images(account, region)
    for name, ami in steps.parameters_to(
        account, region, prefix, [image["ImageId"] for image in images]
    ).items():
        yield Item(kind="parameter", region=region, id=name, text=f"points to {ami}")
    for arn, name in _shares(account, region):
        yield Item(kind="resource share", region=region, id=arn, text=name)
    for image in images:
        yield Item(kind="image", region=region, id=image["ImageId"], text=_text(image))
    filters = {"instance-state-name": _ALIVE}
    for reservation in _pages(ec2, "describe_instances", "Reservations", filters):
        for instance in reservation["Instances"]:
            yield Item(kind="instance", region=region, id=instance["InstanceId"], text=_text(instance))
    for fleet in spot.fleets(account, region, {RUN_TAG: "*", BUILDER_TAG: "*"}):
        yield Item(kind="fleet", region=region, id=fleet)
    for template, data in spot.templates(account, region):
        if spot.is_of_factory(data):
            yield Item(kind="launch template", region=region, id=template, text=f"key {data['KeyName']}")
    for kind, (operation, key, id_key, more) in _LISTINGS.items():
        owned = {"OwnerIds": ["self"]} if kind == "snapshot" else {}
        for resource in _pages(ec2, operation, key, more, **owned):
            yield Item(kind=kind, region=region, id=resource[id_key], text=_text(resource))


def _stacks(account: Account, region: str, note: Callable[[str], object]) -> Iterator[Item]:
    try:
        found = stacks.own_stacks(account, region)
    except MissingError as error:
        if not is_denied(error):
            raise
        if not account.endpoint:  # rehearsals serve CloudFormation only on request
            note(f"stacks are not listed: {error.message}")
        return
    for order, stack in enumerate(found):
        text = f"{tags_of(stack)[ARCHITECTURE_TAG]}, {stack['StackStatus']}"
        yield Item(kind="stack", region=region, id=stack["StackName"], text=text, order=order)


def _shares(account: Account, region: str) -> list[tuple[str, str]]:
    """Return (ARN, name) of the RAM resource shares; empty if the caller may not list resource shares."""
    try:
        return list(own_shares(account, region))
    except MissingError as error:
        if is_denied(error):
            return []
        raise


def _images(account: Account, region: str) -> list[Resource]:
    own = account.images_with_tag(RUN_TAG, region=region)
    return [image for image in own if BUILDER_TAG in tags_of(image)]


def _pages(
    ec2: Any, operation: str, key: str, filters: Mapping[str, Iterable[str]], **more: Any
) -> list[Resource]:
    wanted = {f"tag:{RUN_TAG}": ("*",), f"tag:{BUILDER_TAG}": ("*",), **filters}
    asked = [{"Name": name, "Values": list(values)} for name, values in wanted.items()]
    with calling_aws(f"listing {key}"):
        if not ec2.can_paginate(operation):
            return list(getattr(ec2, operation)(Filters=asked, **more)[key])
        pages = ec2.get_paginator(operation).paginate(Filters=asked, **more)
        return [resource for page in pages for resource in page[key]]


def _text(resource: Resource) -> str:
    tags = tags_of(resource)
    return f"{tags.get(TARGET_TAG, '')} of run {tags.get(RUN_TAG, '')}".strip()


def delete(account: Account, items: Iterable[Item], say: Callable[[str], object]) -> None:
    """Delete resources in the given order; a resource that no longer exists is not an error."""
    for item in items:
        say(str(item))
        _DELETIONS[item.kind](account, item)


def _delete_image(account: Account, item: Item) -> None:
    ref = AmiRef(account=account, region=item.region, ami=item.id)
    if image := ref.find():
        steps.remove(ref, {RUN_TAG: tags_of(image)[RUN_TAG], BUILDER_TAG: tags_of(image)[BUILDER_TAG]})


def _delete_instance(account: Account, item: Item) -> None:
    ec2 = account.client("ec2", item.region)
    with calling_aws(f"terminating {item.id}"), ignoring("InvalidInstanceID.NotFound"):
        ec2.terminate_instances(InstanceIds=[item.id])

    def is_gone() -> bool:
        filters = {"instance-id": [item.id], "instance-state-name": _ALIVE}
        return not _pages(ec2, "describe_instances", "Reservations", filters)

    if not until(is_gone, timeout_s=_END_S, every_s=account.polling):
        raise BuildError(
            f"{item.id} in {item.region} did not terminate within {_END_S:.0f} s",
            hint="builder clean --everything",
        )


def _delete_group(account: Account, item: Item) -> None:
    if not groups.delete(account, item.region, item.id):
        raise groups.in_use(item.id, item.region)


def _delete_key(account: Account, item: Item) -> None:
    with calling_aws(f"deleting the key {item.id}"):
        account.client("ec2", item.region).delete_key_pair(KeyName=item.id)


def _delete_volume(account: Account, item: Item) -> None:
    with calling_aws(f"deleting {item.id}"), ignoring("InvalidVolume.NotFound"):
        account.client("ec2", item.region).delete_volume(VolumeId=item.id)


_DELETIONS: Mapping[str, Callable[[Account, Item], None]] = {
    "stack": lambda account, item: stacks.delete(account, item.id, item.region),
    "parameter": lambda account, item: steps.remove_parameters(account, item.region, [item.id]),
    "resource share": lambda account, item: delete_share(account, item.region, item.id),
    "fleet": lambda account, item: spot.delete_fleet(account, item.region, item.id),
    "instance": _delete_instance,
    "launch template": lambda account, item: spot.delete_template(account, item.region, item.id),
    "key pair": _delete_key,
    "security group": _delete_group,
    "volume": _delete_volume,
    "image": _delete_image,
    "snapshot": lambda account, item: steps.remove_snapshot(account, item.region, item.id),
}
