"""Delete the resources that a run left in an account: instances, keys, groups, volumes, unused images.

A resource is deleted only with proof that the run created it; the journal of the run says which regions to
search. The caller decides which runs are dead. Resources of other runs are not touched.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from builder.adapters.ami import journal, spot
from builder.adapters.ami import steps as steps
from builder.adapters.ami.access import KINDS
from builder.adapters.ami.ownership import Ownership, ownership
from builder.adapters.ami.steps import AmiRef, snapshots_of
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account, Resource, calling_aws, ignoring, tags_of
from builder.adapters.host.receipts import references, unreadable
from builder.adapters.host.workspace import Workspace, is_run_name
from builder.errors import BuildError, UsageError
from builder.marks import CHECKPOINT_TAG, SOURCE_TAG
from builder.wait import until

_END_S = 300.0
_ALIVE = ["pending", "running", "stopping", "stopped", "shutting-down"]


@dataclass(frozen=True, kw_only=True)
class Janitor:
    """Deletes a run's resources in one region; `keeps` returns True for the id of an image that must stay.

    `held` maps the key pair's name of each instance that must stay to the instance id. `spot_keys` has
    the names of the run's key pairs with which it has asked for spot instances.
    """

    account: Account
    region: str
    own: Ownership
    keeps: Callable[[str], bool]
    held: Mapping[str, str] = field(default_factory=dict)
    spot_keys: tuple[str, ...] = ()
    removed: list[str] = field(default_factory=list)
    left: list[BuildError] = field(default_factory=list)

    @property
    def ec2(self) -> Any:
        return self.account.client("ec2", self.region)

    def sweep(self) -> list[str]:
        """Delete all resources of the run, dependents first, and return their ids.

        Repeats for `appear_s` seconds, since EC2 may list a resource late, even one for which the response to
        its request was lost. Raises BuildError for a security group that is still in use, after deleting
        everything else.
        """
        last_s = monotonic() + self.account.appear_s

        def are_all_listed() -> bool:
            is_last = monotonic() >= last_s
            self._delete_listed()
            return is_last or bool(self.left)

        until(are_all_listed, timeout_s=self.account.appear_s, every_s=self.account.polling)
        if self.left:
            raise self.left[0]
        return self.removed

    def _delete_listed(self) -> None:
        self._terminate_listed()
        self._spot()
        self._key_pairs()
        self._groups()
        self._volumes()
        self._images()
        self._snapshots()

    def _all(self, operation: str, key: str, filters: dict[str, list[str]], **more: Any) -> list[Resource]:
        asked = [{"Name": name, "Values": values} for name, values in filters.items()]
        with calling_aws(f"listing resources of {self.own.run} in {self.region}"):
            pages = self.ec2.get_paginator(operation).paginate(Filters=asked, **more)
            return [resource for page in pages for resource in page[key]]

    def _run_filter(self) -> dict[str, list[str]]:
        return {f"tag:{name}": [value] for name, value in self.own.tags.items()}

    def _instances(self) -> list[Resource]:
        alive = {"instance-state-name": _ALIVE}
        found = self._all("describe_instances", "Reservations", {**self._run_filter(), **alive})
        if self.spot_keys:  # Packer 1.6 tags a spot instance only after EC2 has started it
            by_key = {"key-name": list(self.spot_keys), **alive}
            found += self._all("describe_instances", "Reservations", by_key)
        instances = [instance for reservation in found for instance in reservation["Instances"]]
        own = [each for each in instances if self.own.has(each) or self.own.has_untagged_spot(each)]
        return [instance for instance in own if instance["InstanceId"] not in self.held.values()]

    def _terminate(self, instances: Iterable[Resource]) -> None:
        ids = list(dict.fromkeys(instance["InstanceId"] for instance in instances))
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
        """Delete the run's security groups; terminate instances that use one and that EC2 lists late."""
        for group in self._all("describe_security_groups", "SecurityGroups", self._run_filter()):
            name = group["GroupId"]
            if group["GroupName"] in self.held:
                continue
            if groups.delete(self.account, self.region, name, meanwhile=self._terminate_listed):
                self.removed.append(name)
            else:
                self.left.append(groups.in_use(name, self.region))

    def _terminate_listed(self) -> None:
        self._terminate(self._instances())

    def _spot(self) -> None:
        """Delete launch templates and fleets, unless an instance must stay: its fleet would terminate it."""
        if self.spot_keys and not self.held:
            found = spot.delete_all(self.account, self.region, self.spot_keys, self.own.tags)
            self.removed.extend(found)

    def _key_pairs(self) -> None:
        with calling_aws(f"listing key pairs of {self.own.run}"):
            found = self.ec2.describe_key_pairs()["KeyPairs"]
        for pair in found:
            if self.own.has(pair) and pair["KeyName"] not in self.held:
                with calling_aws(f"deleting the key {pair['KeyName']}"):
                    self.ec2.delete_key_pair(KeyName=pair["KeyName"])
                self.removed.append(pair["KeyName"])

    def _volumes(self) -> None:
        filters = {**self._run_filter(), "status": ["available"]}
        for volume in self._all("describe_volumes", "Volumes", filters):
            with calling_aws(f"deleting {volume['VolumeId']}"), ignoring("InvalidVolume.NotFound"):
                self.ec2.delete_volume(VolumeId=volume["VolumeId"])
            self.removed.append(volume["VolumeId"])

    def _images(self) -> None:
        """Delete images by tag or name: old versions of Packer do not tag an image before it is available."""
        more: dict[str, Any] = {"Owners": ["self"], "IncludeDeprecated": True, "IncludeDisabled": True}
        tagged = self._all("describe_images", "Images", self._run_filter(), **more)
        named = self._all("describe_images", "Images", {"name": [f"*{self.own.run}*"]}, **more)
        for image in {image["ImageId"]: image for image in (*tagged, *named)}.values():
            is_own = self.own.has(image) or self.own.has_untagged(image)
            if not is_own or self._is_kept(image):
                continue
            ref = AmiRef(account=self.account, region=self.region, ami=image["ImageId"])
            steps.remove(ref, self.own.tags)
            self.removed.append(image["ImageId"])

    def _is_kept(self, image: Resource) -> bool:
        """True for images that must stay, for their copies, and for complete checkpoints."""
        tags = tags_of(image)
        return CHECKPOINT_TAG in tags or self.keeps(image["ImageId"]) or self.keeps(tags.get(SOURCE_TAG, ""))

    def _snapshots(self) -> None:
        """Delete the run's snapshots that no image uses."""
        own = steps.snapshots(self.account, self.region, self._run_filter())
        if not own:
            return
        images = self._all(
            "describe_images", "Images", {}, Owners=["self"], IncludeDeprecated=True, IncludeDisabled=True
        )
        used = {snapshot for image in images for snapshot in snapshots_of(image)}
        for snapshot in own:
            if snapshot["SnapshotId"] not in used:
                steps.remove_snapshot(self.account, self.region, snapshot["SnapshotId"])
                self.removed.append(snapshot["SnapshotId"])


def unchecked(workspace: Workspace, run: str) -> list[str]:
    """Return the ids of a run's complete images without a receipt, which `sweep` kept for the next build."""
    entries = [entry for entry in journal.read(workspace, run) if entry.kind == "image" and entry.id]
    recorded = references(workspace.out)
    return [entry.id for entry in entries if entry.id not in recorded]


def _spot_keys(entries: Sequence[journal.Entry], own: Ownership) -> tuple[str, ...]:
    """Return the key pairs of a run that asked for spot instances; a journal can name key pairs of others."""
    kinds = {entry.kind for entry in entries}
    names = (entry.name for entry in entries if entry.kind == "key-pair" and own.names(entry.name))
    return tuple(dict.fromkeys(names)) if kinds & {*spot.KINDS} else ()


def sweep(workspace: Workspace, account: Account, run: str, *, keep_complete: bool) -> list[str]:
    """Delete the resources that a run left in this account, in the regions of its journal; return their ids.

    `run` must be a run name: a file with another name in the journal folder is not the journal of a run.
    Images with a receipt are kept. `keep_complete` also keeps complete images without a receipt, so that the
    next build can reuse them, and instances that `--keep-failed` kept. The journal is deleted once none of
    its entries is needed.
    """
    if not is_run_name(run):
        raise UsageError(
            f"{run!r} is not the name of a run", hint=f"remove {journal.path_of(workspace, run)} by hand"
        )
    entries = journal.read(workspace, run)
    account_id = journal.account_id_of(account) if entries else ""
    own = [entry for entry in entries if entry.account_id == account_id]
    held = {entry.name: entry.id for entry in own if entry.is_held and keep_complete}
    checkouts = {workspace.out, *(Path(entry.out) for entry in own)}
    recorded = frozenset(ami for out in checkouts for ami in references(out))
    complete = frozenset(entry.id for entry in own if entry.kind == "image" and entry.id) - recorded
    # An unreadable receipt, for example in another format, may be the receipt of one of these images.
    keep_complete = keep_complete or any(unreadable(out) for out in checkouts)
    kept = recorded | complete if keep_complete else recorded
    closing = [
        entry
        for entry in own
        if not (entry.name in held and entry.kind in KINDS)
        and (not entry.id or entry.is_held or entry.id in complete - kept)
    ]
    removed = []
    if closing:
        owner = ownership(workspace, run)
        for region in dict.fromkeys(entry.region for entry in own):
            janitor = Janitor(
                account=account,
                region=region,
                own=owner,
                keeps=kept.__contains__,
                held=held,
                spot_keys=_spot_keys(own, owner),
            )
            removed += janitor.sweep()
    is_done = not (complete & kept) and not held
    if len(own) == len(entries) and is_done:
        journal.delete(workspace, run)
    elif closing:  # the next build then looks for nothing of this run
        journal.close(workspace, run, closing)
    return removed
