"""A published AMI as one thing: the image, its copies in other regions, the parameters that lead to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from builder.adapters.ami import steps as steps
from builder.adapters.ami.publisher import LATEST
from builder.adapters.ami.steps import AmiRef, snapshots_of
from builder.adapters.aws.account import Account, Resource, calling_aws, tags_of
from builder.errors import UsageError
from builder.marks import IMAGE_TAG, SOURCE_TAG, TARGET_TAG

_AT_ONCE = 8
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One AMI of a family, as it was found."""

    ref: AmiRef
    image: Resource

    @property
    def tags(self) -> Mapping[str, str]:
        return tags_of(self.image)

    @property
    def is_copy(self) -> bool:
        return SOURCE_TAG in self.tags


def regions_of(account: Account) -> tuple[str, ...]:
    """All regions that the account may use."""
    with calling_aws("which regions there are"):
        return tuple(one["RegionName"] for one in account.client("ec2").describe_regions()["Regions"])


def _everywhere(regions: Sequence[str], look: Callable[[str], Iterable[_Found]]) -> list[_Found]:
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="region") as pool:
        return [one for found in pool.map(look, regions) for one in found]


def all_of(account: Account, regions: Sequence[str]) -> list[Member]:
    """Everything that was ever built here and is still there."""

    def look(region: str) -> list[Member]:
        return [_member(account, region, one) for one in account.images_with_tag(TARGET_TAG, region=region)]

    return _everywhere(regions, look)


def family(account: Account, ami: str, regions: Sequence[str]) -> list[Member]:
    """The image first, then its copies; empty where there is none."""
    found = account.image(ami)
    home = [] if found is None else [_member(account, account.region, found)]
    if home and home[0].is_copy:
        raise UsageError(
            f"{ami} is a copy of {home[0].tags[SOURCE_TAG]}",
            hint="name that one",
        )

    def look(region: str) -> list[Member]:
        return [_member(account, region, one) for one in account.images({SOURCE_TAG: ami}, region=region)]

    return [*home, *_everywhere(regions, look)]


def _member(account: Account, region: str, image: Resource) -> Member:
    return Member(ref=AmiRef(account=account, region=region, ami=image["ImageId"]), image=image)


def pointers(members: Iterable[Member], prefix: str) -> dict[AmiRef, list[str]]:
    """Which parameters lead to each."""
    found: dict[AmiRef, list[str]] = {}
    by_region: dict[str, list[Member]] = {}
    for member in members:
        by_region.setdefault(member.ref.region, []).append(member)
    for region, group in by_region.items():
        refs = {one.ref.ami: one.ref for one in group}
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
    """What leads to an image first, then the image and its copies with all snapshots, the image itself last.

    What was cut short is ended by calling_aws for it again.
    """
    members = family(account, ami, regions)
    leading = pointers(members, prefix)
    newest = sorted({name for names in leading.values() for name in names if f"/{LATEST}/" in name})
    if newest and not force:
        raise UsageError(
            f"{ami} is the newest of its kind: {', '.join(newest)} leads to it",
            hint="publish another first, or: builder ami retire … --force",
        )
    for ref, names in leading.items():
        say(f"{ref.region}: {', '.join(sorted(names))}")
        steps.remove_parameters(account, ref.region, sorted(names))
    for member in reversed(members):
        say(str(member.ref))
        steps.remove(member.ref, {IMAGE_TAG: ami})
    for region in regions:
        for snapshot in _forgotten(account, region, ami):
            say(f"{region}: {snapshot}")
            steps.remove_snapshot(account, region, snapshot)


def _forgotten(account: Account, region: str, ami: str) -> list[str]:
    """Snapshots of a retirement that was cut short."""
    found = steps.snapshots(account, region, f"tag:{IMAGE_TAG}", [ami])
    return [one["SnapshotId"] for one in found]


def describe(member: Member, names: Sequence[str]) -> dict[str, object]:
    """What a person wants to know of one AMI."""
    image, tags = member.image, member.tags
    return {
        "region": member.ref.region,
        "ami": member.ref.ami,
        "name": image.get("Name", ""),
        "state": image["State"],
        "created": image["CreationDate"],
        "architecture": image.get("Architecture", ""),
        "metadata tokens": "required" if image.get("ImdsSupport") == "v2.0" else "optional",
        "protected": steps.is_protected(image),
        "deprecated from": image.get("DeprecationTime", ""),
        "shared with": [next(iter(one.values())) for one in steps.shared_with(member.ref)],
        "snapshots": snapshots_of(image),
        "parameters": sorted(names),
        "tags": dict(sorted(tags.items())),
    }
