"""Proof that a run of this builder created a resource in an account; without it nothing is deleted.

The proof is the random ID of the builder's home in a tag. Old versions of Packer create images without
tags: then its name and its creation time are the proof.
"""

import datetime
import os
import re
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.ami import journal
from builder.adapters.aws.account import Account, Resource, calling_aws, tags_of
from builder.adapters.host.workspace import Workspace
from builder.errors import MissingError
from builder.marks import BUILDER_TAG, RUN_TAG

_ID = re.compile(r"[0-9a-f]{32}")
# EC2 refuses requests of hosts whose clocks differ more from its own.
_CLOCK = datetime.timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ownership:
    """The tags of a run's resources, and the time before which the run has created nothing."""

    run: str
    builder: str
    since: datetime.datetime | None  # None: unknown, so only tags are proof

    @property
    def tags(self) -> dict[str, str]:
        return {RUN_TAG: self.run, BUILDER_TAG: self.builder}

    def has(self, resource: Resource) -> bool:
        """True if the tags of a resource prove that the run created it."""
        return self.tags.items() <= tags_of(resource).items()

    def has_running(self, account: Account, instance: str) -> bool:
        """True if an instance is running and its tags prove that the run started it."""
        filters = [{"Name": f"tag:{name}", "Values": [value]} for name, value in self.tags.items()]
        filters.append({"Name": "instance-state-name", "Values": ["running"]})
        filters.append({"Name": "instance-id", "Values": [instance]})
        with calling_aws(f"describing {instance}"):
            return bool(account.client("ec2").describe_instances(Filters=filters)["Reservations"])

    def has_untagged(self, resource: Resource) -> bool:
        """True if a resource without tags has the run in its name and is not older than the run."""
        if self.since is None or not _is_untagged(resource):
            return False
        return self.names(resource.get("Name", "")) and _created(resource) >= self.since

    def has_untagged_spot(self, instance: Resource) -> bool:
        """True if an instance without tags has a key pair of the run and is not older than the run."""
        if self.since is None or not _is_untagged(instance):
            return False
        return self.names(instance.get("KeyName", "")) and instance["LaunchTime"] >= self.since - _CLOCK

    def names(self, name: str) -> bool:
        """True if a name contains the run's name as a whole word."""
        return _is_named(name, self.run)


def ownership(workspace: Workspace, run: str) -> Ownership:
    return Ownership(run=run, builder=builder_id(workspace), since=journal.begun(workspace, run))


def has_id(workspace: Workspace) -> bool:
    """True if the builder's home has an ID; without an ID, no run of this home has created resources."""
    return _path(workspace).exists()


def _path(workspace: Workspace) -> Path:
    return workspace.home / "builder-id"


def builder_id(workspace: Workspace) -> str:
    """Return the random ID of the builder's home; create it on first use."""
    path = _path(workspace)
    if not path.exists():
        _create(path)
    found = path.read_text(encoding="ascii", errors="replace").strip()
    if not _ID.fullmatch(found):
        raise MissingError(
            f"{path}: {found[:40]!r} is not an ID of 32 hexadecimal digits",
            hint=f"restore it from a backup, or: rm {path} (resources of earlier runs are then not deleted)",
        )
    return found


def _create(path: Path) -> None:
    """Write a new ID to a file atomically; keep an existing file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{os.urandom(16).hex()}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # a concurrent run was faster
    finally:
        temporary.unlink(missing_ok=True)


def _is_untagged(resource: Resource) -> bool:
    """True if a resource has no tags other than those that AWS sets."""
    return all(name.startswith("aws:") for name in tags_of(resource))


def _is_named(name: str, run: str) -> bool:
    """True if a name contains the run's name as a whole word: run names may be prefixes of each other."""
    return bool(re.search(rf"(^|[^0-9a-z]){re.escape(run)}($|[^0-9a-z])", name))


def _created(resource: Resource) -> datetime.datetime:
    """Return the creation time of an image; the earliest possible time if EC2 reports none."""
    try:
        moment = datetime.datetime.fromisoformat(str(resource.get("CreationDate", "")))
    except ValueError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
