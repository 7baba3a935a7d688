"""AMIs and snapshots that behave as in EC2 where moto does not; each snapshot is an image in the engine.

The content of an AMI belongs to its snapshot: it survives deregistering and is deleted with the snapshot.
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from moto.ec2.exceptions import (
    EC2ClientError,
    InvalidAMIIdError,
    InvalidSnapshotIdError,
    InvalidSnapshotInUse,
    UnvailableAMIIdError,
)
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.models.instances import Instance
from moto.ec2.utils import random_ami_id

from builder.errors import FactoryError
from builder.rehearsal.ec2.hosts import Hosts
from builder.rehearsal.ec2.seeds import Seed
from builder.rehearsal.ec2.shared_images import SharedImages
from builder.rehearsal.rules import Rules

Tags = Iterable[Mapping[str, Any]]
_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
_COOLDOWN = timedelta(hours=24)
_LONGEST_LIFE = timedelta(days=3653)
# CreateImage waits this long for the capture before it responds: enough for a small disk, less than the
# clients' timeout of 60 s.
CREATE_IMAGE_WAIT_S = 8.0


class Image(Ami):
    """An AMI; pending until its disk is captured and the minimum pending time is over."""

    __module__ = "moto.ec2.models.amis"  # moto derives the service from it

    def __init__(self, backend: Any, ami_id: str, **fields: Any) -> None:
        self.available_at = 0.0
        self.listed_at = 0.0
        self.state_reason: dict[str, str] | None = None
        self.deprecation_time: str | None = None
        self.imds_support: str | None = None
        self.last_launched_time: str | None = None
        self.source_image_id: str | None = None
        self.source_image_region: str | None = None
        self.ena_support = True
        self.platform_details, self.usage_operation = "Linux/UNIX", "RunInstances"
        self.protection = "disabled"
        self.unprotected_at: datetime | None = None
        super().__init__(backend, ami_id, **fields)

    @property
    def state(self) -> str:
        return "pending" if self._state == "available" and time.time() < self.available_at else self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    @property
    def deregistration_protection(self) -> str:
        return self.protection

    @property
    def image_location(self) -> str:
        return f"{self.owner_id}/{self.name}"

    @image_location.setter
    def image_location(self, _: str | None) -> None:
        """Ignore the value; the location follows from owner and name."""

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        snapshot = self.ebs_snapshot
        disk = {
            "SnapshotId": snapshot.id,
            "VolumeSize": snapshot.volume.size,
            "DeleteOnTermination": True,
            "VolumeType": snapshot.volume.volume_type,
            "Encrypted": snapshot.encrypted,
        }
        return [{"DeviceName": self.root_device_name, "Ebs": disk}]


class ImageBackend(SharedImages):
    """EC2's operations on AMIs; class attributes are shared by all regions of the rehearsal."""

    __module__ = "moto.ec2.models"

    instances_backend: ClassVar[Hosts]  # not `hosts`: moto uses that name for dedicated hosts
    naming: ClassVar[threading.Lock] = threading.Lock()
    rules: ClassVar[Rules] = Rules()
    workers: ClassVar[ThreadPoolExecutor]

    def __init__(self, region_name: str, account_id: str) -> None:
        self.fast_restores: dict[tuple[str, str], str] = {}
        self.bound: dict[str, str] = {}  # address of this host at which an instance listens; "" for none
        super().__init__(region_name, account_id)

    def seed_image(self, seed: Seed, created: str) -> Image:
        image = Image(
            self,
            seed.id_in(self.region_name),
            name=seed.name,
            owner_id=seed.owner,
            owner_alias=seed.alias or None,
            public=True,
            root_device_name=seed.device,
            creation_date=datetime.fromisoformat(created),
            **self._fixed(seed.arch),
        )
        image.ebs_snapshot.volume.size = 8
        self.amis[image.id] = image
        return image

    def _fixed(self, arch: str | None) -> dict[str, Any]:
        return {
            "architecture": arch,
            "virtualization_type": "hvm",
            "hypervisor": "xen",
            "root_device_type": "ebs",
            "boot_mode": "uefi" if arch == "arm64" else "uefi-preferred",
            "region_name": f"{self.region_name}a",
        }

    def _new_image(self, name: str, description: str | None, arch: str | None, **fields: Any) -> Image:
        made = {"name": name, "description": description, "state": "pending"}
        with self.naming:
            self._check_name(name)
            image = Image(self, random_ami_id(), **made, **self._fixed(arch), **fields)
            image.ebs_snapshot.status = "pending"
            image.listed_at = time.time() + self.rules.unlisted_s
            self.amis[image.id] = image
        return image

    def _check_name(self, name: str) -> None:
        if not name or not _NAME.fullmatch(name):
            raise EC2ClientError("InvalidAMIName.Malformed", f"AMI name '{name}' is invalid")
        for image in list(self.amis.values()):
            if image.name == name and image.owner_id == self.account_id and image.state != "failed":
                raise EC2ClientError(
                    "InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {image.id}"
                )

    def own_image(self, ami_id: str, *, state: str = "") -> Image:
        """Return an AMI of this account, in the given state if any; raise EC2's error otherwise."""
        if ami_id in self.deleted_amis:
            raise UnvailableAMIIdError(ami_id)
        if ami_id not in self.amis or ami_id in self._unlisted():
            raise InvalidAMIIdError(ami_id)
        image = self.amis[ami_id]
        if image.owner_id != self.account_id or not isinstance(image, Image):
            raise EC2ClientError("AuthFailure", f"Not authorized for image:{ami_id}")
        if state and image.state != state:
            raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{ami_id}' is not {state}")
        return image

    def create_image(
        self,
        instance_id: str,
        name: str,
        description: str,
        tag_specifications: Tags,
        *,
        reboot: bool = True,
    ) -> Image:
        instance = self.get_instance(instance_id)
        if instance.state not in ("running", "stopped"):
            raise EC2ClientError(
                "IncorrectInstanceState",
                f"The instance '{instance_id}' is {instance.state}: cannot create an image from it",
            )
        image = self._new_image(
            name,
            description,
            str(instance.architecture),
            instance=instance,
            root_device_name=instance.root_device_name,
            snapshot_description=f"Created by CreateImage({instance_id}) for a new AMI",
        )
        image.source_image_id, image.source_image_region = instance.image_id, self.region_name
        snapshot, root = image.ebs_snapshot, instance.block_device_mapping.get(instance.root_device_name)
        if root is not None:
            volume = self.get_volume(str(root.volume_id))
            snapshot.volume.size, snapshot.volume.volume_type = volume.size, volume.volume_type
            snapshot.encrypted, snapshot.kms_key_id = volume.encrypted, volume.kms_key_id
        snapshot.description = f"Created by CreateImage({instance_id}) for {image.id}"
        self.tag_image(image, tag_specifications)
        restart = reboot and instance.state == "running"
        self._wait_for(self.workers.submit(self._capture, image, instance, restart=restart))
        return image

    def _capture(self, image: Image, instance: Instance, *, restart: bool) -> None:
        with self._completion(image):
            if restart:
                self.instances_backend.stop(instance.id)
            self.instances_backend.capture(instance.id, image.ebs_snapshot.id)
        if image.ebs_snapshot.id not in self.snapshots:  # deleted during the capture
            self.instances_backend.delete_snapshot(image.ebs_snapshot.id)
        if restart:
            self.instances_backend.start(instance.id, self.bound[instance.id])

    @contextmanager
    def _completion(self, image: Image) -> Iterator[None]:
        """Make the AMI available after the block, or failed if the block raises FactoryError."""
        try:
            yield
        except FactoryError as error:
            image.state_reason = {"Code": "Client.InternalError", "Message": error.message}
            image.state, image.ebs_snapshot.status = "failed", "error"
            return
        image.available_at = time.time() + self.rules.pending_s
        image.state, image.ebs_snapshot.status = "available", "completed"

    def _wait_for(self, work: "Future[None]") -> None:
        """Wait at most CREATE_IMAGE_WAIT_S for a disk's capture, which continues in its thread."""
        wait([work], timeout=CREATE_IMAGE_WAIT_S)

    def copy_image(  # type: ignore[override]
        self,
        source_image_id: str,
        source_region: str,
        name: str,
        description: str | None = None,
        *,
        tag_specifications: Tags = (),
        copy_tags: bool = False,
        encrypted: bool = False,
        kms_key_id: str | None = None,
    ) -> Image:
        origin = ec2_backends[self.account_id][source_region]
        source = origin.describe_images(ami_ids=[source_image_id])[0]
        if source.state != "available":
            raise EC2ClientError(
                "InvalidAMIID.Unavailable", f"The image ID '{source_image_id}' is not available"
            )
        image = self._new_image(
            name,
            description or source.description,
            source.architecture,
            root_device_name=source.root_device_name,
            snapshot_description=f"Copied for DestinationAmi from SourceAmi {source_image_id}",
        )
        image.source_image_id, image.source_image_region = source_image_id, source_region
        image.imds_support, image.boot_mode = getattr(source, "imds_support", None), source.boot_mode
        snapshot, before = image.ebs_snapshot, source.ebs_snapshot
        snapshot.volume.size, snapshot.volume.volume_type = before.volume.size, before.volume.volume_type
        snapshot.encrypted = encrypted or before.encrypted
        snapshot.kms_key_id = kms_key_id if snapshot.encrypted else None
        if copy_tags:
            kept = {
                tag["key"]: tag["value"] for tag in source.get_tags() if not tag["key"].startswith("aws:")
            }
            image.add_tags(kept)
        self.tag_image(image, tag_specifications)
        with self._completion(image):
            self.instances_backend.copy(before.id, snapshot.id)
        return image

    def register_image(  # type: ignore[override]
        self,
        name: str,
        description: str | None = None,
        *,
        snapshot_id: str = "",
        tag_specifications: Tags = (),
        arch: str = "i386",
        device: str = "/dev/sda1",
        **fields: Any,
    ) -> Image:
        if snapshot_id not in self.snapshots:
            raise InvalidSnapshotIdError
        image = self._new_image(name, description, arch, root_device_name=device)
        self.snapshots.pop(image.ebs_snapshot.id)
        image.ebs_snapshot = self.snapshots[snapshot_id]
        for field, value in fields.items():
            if value is not None:
                setattr(image, field, value)
        self.tag_image(image, tag_specifications)
        image.state = "available"
        return image

    def tag_image(self, image: Image, specifications: Tags) -> None:
        resources = {"image": image, "snapshot": image.ebs_snapshot}
        for specification in specifications:
            kind = specification["ResourceType"]
            if kind not in resources:
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"'{kind}' is not a valid taggable resource type for this operation.",
                )
            resources[kind].add_tags({tag["Key"]: tag["Value"] for tag in specification["Tags"]})

    def describe_images(  # type: ignore[override]
        self, ami_ids: list[str] | None = None, *, disabled: bool = True, **selectors: Any
    ) -> list[Ami]:
        unlisted, known = self._unlisted(), {*self.amis, *self.deleted_amis, *self.shared_images()}
        missing = [ami for ami in ami_ids or () if ami not in known or ami in unlisted]
        if missing and all(ami.startswith("ami-") for ami in missing):
            raise InvalidAMIIdError(missing)
        found = super().describe_images(ami_ids=ami_ids, **selectors)
        return [
            image for image in found if image.id not in unlisted and (disabled or image.state != "disabled")
        ]

    def _unlisted(self) -> set[str]:
        """Return the ids of AMIs that were created so recently that EC2 does not find them yet."""
        now = time.time()
        return {image.id for image in list(self.amis.values()) if getattr(image, "listed_at", now) > now}

    def describe_snapshots(
        self, snapshot_ids: list[str] | None = None, filters: Any = None
    ) -> list[Snapshot]:
        hidden = {self.amis[ami].ebs_snapshot.id for ami in self._unlisted()}
        return [
            snapshot
            for snapshot in super().describe_snapshots(snapshot_ids, filters)
            if snapshot.id not in hidden
        ]

    def deregister_image(self, ami_id: str) -> None:
        image = self.own_image(ami_id)
        cooling = image.unprotected_at is not None and datetime.now(UTC) - image.unprotected_at < _COOLDOWN
        if image.protection != "disabled" or cooling:
            raise EC2ClientError(
                "OperationNotPermitted",
                f"The image '{ami_id}' is protected from deregistration ({image.protection})",
            )
        super().deregister_image(ami_id)

    def delete_snapshot(self, snapshot_id: str) -> Any:
        for image in self.amis.values():
            if image.ebs_snapshot.id == snapshot_id:
                raise InvalidSnapshotInUse(snapshot_id, image.id)
        snapshot = super().delete_snapshot(snapshot_id)
        self.instances_backend.delete_snapshot(snapshot_id)
        return snapshot

    def delete_unused(self, snapshot_id: str) -> bool:
        """Delete a snapshot unless another AMI uses it; return whether it was deleted."""
        with suppress(InvalidSnapshotInUse):
            self.delete_snapshot(snapshot_id)
            return True
        return False

    def set_fast_restore(self, snapshot_id: str, zone: str, state: str) -> dict[str, str]:
        """Set the state of fast snapshot restore in a zone; return EC2's error, or an empty mapping."""
        if snapshot_id not in self.snapshots:
            return {"Code": "InvalidSnapshot.NotFound", "Message": f"{snapshot_id} does not exist"}
        if not zone.startswith(self.region_name):
            return {"Code": "InvalidParameterValue", "Message": f"{zone} is not in {self.region_name}"}
        if state == "disabled" and (snapshot_id, zone) not in self.fast_restores:
            return {"Code": "InvalidFastSnapshotRestore.NotFound", "Message": f"none for {snapshot_id}"}
        self.fast_restores[snapshot_id, zone] = state
        return {}

    def modify_image_attribute(self, ami_id: str, **permissions: Any) -> None:  # type: ignore[override]
        self.own_image(ami_id, state="available")
        super().modify_image_attribute(ami_id=ami_id, **permissions)

    def disable_image(self, ami_id: str) -> None:
        self.own_image(ami_id)
        super().disable_image(ami_id)
        self.amis[ami_id].launch_permissions.clear()

    def deprecate(self, ami_id: str, moment: datetime | None) -> None:
        image = self.own_image(ami_id)
        if moment is None:
            image.deprecation_time = None
            return
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        now = datetime.now(UTC)
        if moment < now or moment > now + _LONGEST_LIFE:
            raise EC2ClientError(
                "InvalidParameterValue", f"{moment:%Y-%m-%dT%H:%M:%SZ} is in the past or beyond 10 years"
            )
        rounded = (moment + timedelta(seconds=30)).replace(second=0, microsecond=0)
        image.deprecation_time = f"{rounded:%Y-%m-%dT%H:%M:%S}.000Z"

    def protect(self, ami_id: str, *, cooldown: bool) -> str:
        image = self.own_image(ami_id)
        image.protection = "enabled-with-cooldown" if cooldown else "enabled-without-cooldown"
        image.unprotected_at = None
        return image.protection

    def unprotect(self, ami_id: str) -> str:
        image = self.own_image(ami_id)
        if image.protection == "enabled-with-cooldown":
            image.unprotected_at = datetime.now(UTC)
        image.protection = "disabled"
        return image.protection
