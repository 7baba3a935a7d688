"""AMIs together with their copies in other regions and the SSM parameters that point to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from builder.adapters.ami import steps as steps
from builder.adapters.ami.publisher import LATEST
from builder.adapters.ami.steps import AmiRef, snapshots_of
from builder.adapters.aws.account import Account, Resource, calling_aws, is_denied, tags_of
from builder.errors import MissingError, UsageError
from builder.marks import IMAGE_TAG, LAYER_TAG, SOURCE_TAG, TARGET_TAG

_AT_ONCE = 8
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An AMI or a copy of an AMI, as EC2 describes it."""

    ref: AmiRef
    image: Resource

    @property
    def tags(self) -> Mapping[str, str]:
        return tags_of(self.image)

    @property
    def is_copy(self) -> bool:
        return SOURCE_TAG in self.tags


def regions_of(account: Account) -> tuple[str, ...]:
    """Return the names of all regions that are enabled for the account."""
    with calling_aws("listing the regions"):
        return tuple(region["RegionName"] for region in account.client("ec2").describe_regions()["Regions"])


def in_all_regions(
    account: Account, regions: Sequence[str], list_region: Callable[[str], Iterable[_Item]]
) -> list[_Item]:
    """List the items of all regions; skip regions that a policy denies, except the site's own region."""

    def list_usable(region: str) -> Iterable[_Item]:
        try:
            return list_region(region)
        except MissingError as error:
            if region == account.region or not is_denied(error):
                raise
            return ()

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="region") as pool:
        return [item for items in pool.map(list_usable, regions) for item in items]


def all_of(account: Account, regions: Sequence[str]) -> list[Member]:
    """Return all AMIs that the builder built in this account, copies included."""

    def list_region(region: str) -> list[Member]:
        return [
            _member(account, region, image) for image in account.images_with_tag(TARGET_TAG, region=region)
        ]

    return in_all_regions(account, regions, list_region)


def family(account: Account, ami: str, regions: Sequence[str]) -> list[Member]:
    """Return an AMI followed by its copies; an empty list if neither the AMI nor a copy exists."""
    found = account.image(ami)
    home = [] if found is None else [_member(account, account.region, found)]
    if home and LAYER_TAG in home[0].tags:
        raise UsageError(
            f"{ami} is a checkpoint of {home[0].tags[LAYER_TAG]}, which only builds use",
            hint="builder clean; it removes checkpoints beyond [checkpoints] keep_last in site.toml",
        )
    if home and home[0].is_copy:
        raise UsageError(
            f"{ami} is a copy of {home[0].tags[SOURCE_TAG]}",
            hint=f"re-run the command with {home[0].tags[SOURCE_TAG]}",
        )

    def list_region(region: str) -> list[Member]:
        return [_member(account, region, image) for image in account.images({SOURCE_TAG: ami}, region=region)]

    return [*home, *in_all_regions(account, regions, list_region)]


def _member(account: Account, region: str, image: Resource) -> Member:
    return Member(ref=AmiRef(account=account, region=region, ami=image["ImageId"]), image=image)


def pointers(members: Iterable[Member], prefix: str) -> dict[AmiRef, list[str]]:
    """Return, for each AMI, the names of the SSM parameters below `prefix` that point to it."""
    found: dict[AmiRef, list[str]] = {}
    by_region: dict[str, list[Member]] = {}
    for member in members:
        by_region.setdefault(member.ref.region, []).append(member)
    for region, group in by_region.items():
        refs = {member.ref.ami: member.ref for member in group}
        account = group[0].ref.account
        for name, ami in steps.parameters_to(account, region, prefix, refs).items():
            found.setdefault(refs[ami], []).append(name)
    return found


def retire(
    account: Account,
    ami: str,
    regions: Sequence[str],
    *,
    prefix: str,
    force: bool,
    say: Callable[[str], None],
) -> None:
    """Delete an AMI's SSM parameters, then its copies and the AMI itself with their snapshots.

    After an interruption, the function can be called again.
    """
    members = family(account, ami, regions)
    require_built(members)
    pointing = pointers(members, prefix)
    newest = sorted({name for names in pointing.values() for name in names if f"/{LATEST}/" in name})
    if newest and not force:
        raise UsageError(
            f"{ami} is the latest image of its target; SSM parameters that point to it: {', '.join(newest)}",
            hint=f"publish a newer image first, or: builder ami retire {ami} --force",
        )
    for ref, names in pointing.items():
        say(f"{ref.region}: {', '.join(sorted(names))}")
        steps.remove_parameters(account, ref.region, sorted(names))
    for member in reversed(members):
        say(str(member.ref))
        steps.remove(member.ref, {IMAGE_TAG: ami})
    leftovers = in_all_regions(account, regions, lambda region: _leftover_snapshots(account, region, ami))
    for region, snapshot in leftovers:
        say(f"{region}: {snapshot}")
        steps.remove_snapshot(account, region, snapshot)


def require_built(members: Iterable[Member]) -> None:
    """Refuse AMIs without the tags that the builder sets."""
    for member in members:
        if TARGET_TAG not in member.tags:
            raise UsageError(
                f"{member.ref} was not built by `builder`: it has no tag {TARGET_TAG}",
                hint=f"aws ec2 describe-images --region {member.ref.region} --image-ids {member.ref.ami}",
            )


def _leftover_snapshots(account: Account, region: str, ami: str) -> list[tuple[str, str]]:
    """Return (region, id) of the snapshots of an AMI that an interrupted `retire` left behind."""
    found = steps.snapshots(account, region, {f"tag:{IMAGE_TAG}": [ami]})
    return [(region, snapshot["SnapshotId"]) for snapshot in found]


def describe(member: Member, names: Sequence[str]) -> dict[str, object]:
    """Return the facts that `builder ami show` prints for an AMI."""
    image, tags = member.image, member.tags
    return {
        "region": member.ref.region,
        "ami": member.ref.ami,
        "name": image.get("Name", ""),
        "state": image["State"],
        "created": image["CreationDate"],
        "architecture": image.get("Architecture", ""),
        "metadata_tokens": "required" if image.get("ImdsSupport") == "v2.0" else "optional",
        "protected": steps.is_protected(image),
        "deprecated_from": image.get("DeprecationTime", ""),
        "shared_with": [next(iter(grant.values())) for grant in steps.shared_with(member.ref)],
        "snapshots": snapshots_of(image),
        "parameters": sorted(names),
        "tags": dict(sorted(tags.items())),
    }
