"""Removes what one run left in an account: machines, keys, groups, volumes, and images that nobody has.

A thing is the run's when its name or its tags say so, and its journal says in which regions to look. Whether
a run is dead is for the caller to know; nothing of any other run is touched.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.adapters.ami import journal
from builder.adapters.ami import steps as steps
from builder.adapters.ami.steps import AmiRef, snapshots_of
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account, Resource, calling_aws, ignoring, tags_of
from builder.adapters.host.receipts import references
from builder.adapters.host.workspace import Workspace
from builder.errors import BuildError
from builder.marks import RUN_TAG, SOURCE_TAG
from builder.wait import until

_END_S = 300.0
_ALIVE = ["pending", "running", "stopping", "stopped", "shutting-down"]


@dataclass(frozen=True, kw_only=True)
class Janitor:
    """Clears up after one run in one region; `keeps` says of an image's id that somebody has it."""

    account: Account
    region: str
    run: str
    keeps: Callable[[str], bool]
    removed: list[str] = field(default_factory=list)
    left: list[BuildError] = field(default_factory=list)

    @property
    def ec2(self) -> Any:
        return self.account.client("ec2", self.region)

    def sweep(self) -> list[str]:
        """Removes everything, users before what they use; returns the ids.

        Raises for a group that is still in use, after the rest has been removed.
        """
        instances = self._instances()
        self._terminate(instances)
        self._key_pairs()
        self._groups()
        self._volumes()
        self._images()
        self._snapshots()
        if self.left:
            raise self.left[0]
        return self.removed

    def _all(self, operation: str, key: str, filters: dict[str, list[str]], **more: Any) -> list[Resource]:
        asked = [{"Name": name, "Values": values} for name, values in filters.items()]
        with calling_aws(f"looking for what {self.run} left in {self.region}"):
            pages = self.ec2.get_paginator(operation).paginate(Filters=asked, **more)
            return [one for page in pages for one in page[key]]

    def _mine(self) -> dict[str, list[str]]:
        return {f"tag:{RUN_TAG}": [self.run]}

    def _is_named(self, name: str) -> bool:
        """Whether the run is in a name, as a whole: one run's name may be the beginning of another's."""
        return bool(re.search(rf"(^|[^0-9a-z]){re.escape(self.run)}($|[^0-9a-z])", name))

    def _instances(self) -> list[Resource]:
        filters = {**self._mine(), "instance-state-name": _ALIVE}
        found = self._all("describe_instances", "Reservations", filters)
        return [instance for reservation in found for instance in reservation["Instances"]]

    def _terminate(self, instances: Iterable[Resource]) -> None:
        ids = [one["InstanceId"] for one in instances]
        if not ids:
            return
        with calling_aws(f"terminating {', '.join(ids)}"):
            self.ec2.terminate_instances(InstanceIds=ids)
        self.removed.extend(ids)

        def are_gone() -> bool:
            filters = {"instance-id": ids, "instance-state-name": _ALIVE}
            return not self._all("describe_instances", "Reservations", filters)

        if not until(are_gone, timeout_s=_END_S, every_s=self.account.polling):
            raise BuildError(
                f"{', '.join(ids)} in {self.region} did not terminate within {_END_S:.0f} s",
                hint=f"aws ec2 describe-instances --region {self.region} --instance-ids {' '.join(ids)};"
                " once they are terminated: builder clean",
            )

    def _groups(self) -> None:
        for group in self._all("describe_security_groups", "SecurityGroups", self._mine()):
            if groups.delete(self.account, self.region, group["GroupId"]):
                self.removed.append(group["GroupId"])
            else:
                self.left.append(groups.in_use(group["GroupId"], self.region))

    def _key_pairs(self) -> None:
        with calling_aws(f"looking for keys of {self.run}"):
            found = self.ec2.describe_key_pairs()["KeyPairs"]
        for pair in found:
            if tags_of(pair).get(RUN_TAG) == self.run or self._is_named(pair["KeyName"]):
                with calling_aws(f"deleting the key {pair['KeyName']}"):
                    self.ec2.delete_key_pair(KeyName=pair["KeyName"])
                self.removed.append(pair["KeyName"])

    def _volumes(self) -> None:
        filters = {**self._mine(), "status": ["available"]}
        for volume in self._all("describe_volumes", "Volumes", filters):
            with calling_aws(f"deleting {volume['VolumeId']}"), ignoring("InvalidVolume.NotFound"):
                self.ec2.delete_volume(VolumeId=volume["VolumeId"])
            self.removed.append(volume["VolumeId"])

    def _images(self) -> None:
        """By name as well: older versions of Packer tag an image when it is available and not before."""
        more: dict[str, Any] = {"Owners": ["self"], "IncludeDeprecated": True, "IncludeDisabled": True}
        tagged = self._all("describe_images", "Images", self._mine(), **more)
        named = self._all("describe_images", "Images", {"name": [f"*{self.run}*"]}, **more)
        for image in {one["ImageId"]: one for one in (*tagged, *named)}.values():
            if not self._belongs(image) or self._is_kept(image):
                continue
            steps.remove(
                AmiRef(account=self.account, region=self.region, ami=image["ImageId"]), {RUN_TAG: self.run}
            )
            self.removed.append(image["ImageId"])

    def _belongs(self, image: Resource) -> bool:
        said = tags_of(image).get(RUN_TAG)
        return said == self.run or (said is None and self._is_named(image.get("Name", "")))

    def _is_kept(self, image: Resource) -> bool:
        return self.keeps(image["ImageId"]) or self.keeps(tags_of(image).get(SOURCE_TAG, ""))

    def _snapshots(self) -> None:
        """Those whose image is gone."""
        mine = steps.snapshots(self.account, self.region, f"tag:{RUN_TAG}", [self.run])
        if not mine:
            return
        images = self._all(
            "describe_images", "Images", {}, Owners=["self"], IncludeDeprecated=True, IncludeDisabled=True
        )
        used = {snapshot for image in images for snapshot in snapshots_of(image)}
        for snapshot in mine:
            if snapshot["SnapshotId"] not in used:
                steps.remove_snapshot(self.account, self.region, snapshot["SnapshotId"])
                self.removed.append(snapshot["SnapshotId"])


def sweep(workspace: Workspace, account: Account, run: str, *, keep_complete: bool) -> list[str]:
    """Removes what a run left in this account, as far as its journal says that there can be anything.

    Images with a receipt are kept; those that are complete and have none as well, if it is asked for:
    the next build goes on with them. The journal goes when there is nothing left to say.
    """
    things = journal.read(workspace, run)
    account_id = journal.account_id_of(account) if things else ""
    here = [one for one in things if one.account_id == account_id]
    recorded = frozenset(ami for one in here for ami in references(Path(one.out)))
    complete = frozenset(one.id for one in here if one.kind == "image" and one.id) - recorded
    kept = recorded | complete if keep_complete else recorded
    removed = []
    if any(not one.id or one.id in complete - kept for one in here):
        for region in dict.fromkeys(one.region for one in here):
            janitor = Janitor(
                account=account,
                region=region,
                run=run,
                keeps=kept.__contains__,
            )
            removed += janitor.sweep()
    is_settled = not (complete and keep_complete)
    if len(here) == len(things) and is_settled:
        journal.delete(workspace, run)
    return removed
