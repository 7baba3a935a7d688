"""EC2 actions that moto lacks, or whose parameters moto ignores."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response
from moto.ec2.responses.instances import InstanceResponse

from builder.errors import FactoryError
from builder.rehearsal.ec2 import fleets
from builder.rehearsal.ec2.images import Image
from builder.rehearsal.ec2.limits import ec2_refusal

_BLOCK = "capacity-block"
_ATTRIBUTES = {"description": "Description", "imdsSupport": "ImdsSupport"}


class Actions(EC2Response):
    """Handler of a request to EC2."""

    def call_action(self) -> Any:
        """Answer errors in EC2's format.

        Errors of this host get a code that clients do not retry, because a retry would fail again.
        """
        if refused := ec2_refusal(self._get_action(), self._get_params()):
            return self._refuse(*refused)
        try:
            return super().call_action()
        except NotImplementedError as error:
            return self._refuse("InvalidAction", f"The rehearsal does not know this action: {error}")
        except FactoryError as error:
            return self._refuse("InternalFailure", f"{error.message} {error.details}".strip())

    def _refuse(self, code: str, message: str) -> Any:
        status, headers, body = self.serialized(ActionResult(EC2ClientError(code, message)))
        return status, {**headers, "status": status}, body

    def _flag(self, name: str) -> bool:
        return bool(self._get_param(name))

    def _on_image(self, act: Callable[[str], Any]) -> ActionResult:
        ami_id = self._get_param("ImageId")
        self.error_on_dryrun()
        answer = act(ami_id)
        return ActionResult({"Return": True if answer is None else answer})

    # Actions that describe instances and the account.

    def describe_instances(self) -> ActionResult:
        self.ec2_backend.finish_starting()
        return super().describe_instances()

    def get_instance_metadata_defaults(self) -> ActionResult:
        self.error_on_dryrun()
        return ActionResult({"AccountLevel": self.ec2_backend.metadata_defaults()})

    def get_ebs_default_kms_key_id(self) -> ActionResult:
        self.error_on_dryrun()
        return ActionResult({"KmsKeyId": "alias/aws/ebs"})

    # Actions on capacity reservations.

    def describe_capacity_reservations(self) -> ActionResult:
        self.error_on_dryrun()
        rules = self.ec2_backend.rules
        asked = self._get_param("CapacityReservationIds") or (*rules.reservations, *rules.capacity_blocks)
        return ActionResult({"CapacityReservations": [self._reservation(name) for name in asked]})

    def _reservation(self, name: str) -> dict[str, str]:
        """Return an active capacity reservation or capacity block of the account."""
        rules = self.ec2_backend.rules
        if name not in (*rules.reservations, *rules.capacity_blocks):
            raise EC2ClientError("InvalidCapacityReservationId.NotFound", f"{name} does not exist")
        return {
            "CapacityReservationId": name,
            "ReservationType": _BLOCK if name in rules.capacity_blocks else "default",
            "AvailabilityZone": f"{self.ec2_backend.region_name}a",
            "State": "active",
        }

    def run_instances(self) -> ActionResult:
        """Refuse an instance in an unknown reservation, or with a MarketType that does not fit it."""
        target = (self._get_param("CapacityReservationSpecification") or {}).get("CapacityReservationTarget")
        if name := (target or {}).get("CapacityReservationId"):
            market = (self._get_param("InstanceMarketOptions") or {}).get("MarketType")
            if (self._reservation(name)["ReservationType"] == _BLOCK) != (market == _BLOCK):
                text = f"The market type {market or 'on-demand'} does not fit {name}"
                raise EC2ClientError("InvalidParameterCombination", text)
        return super().run_instances()

    # Actions on fleets of spot instances.

    def create_fleet(self) -> ActionResult:
        self.error_on_dryrun()
        names = ("Type", "LaunchTemplateConfigs", "TargetCapacitySpecification", "TagSpecifications")
        request = {name: self._get_param(name) for name in (*names, "ClientToken")}
        return ActionResult(fleets.create(self.ec2_backend, request))

    def delete_fleets(self) -> ActionResult:
        if not self._flag("TerminateInstances"):
            raise EC2ClientError(
                "InvalidParameterValue", "An instant fleet cannot leave its instances running"
            )
        return super().delete_fleets()

    # Actions that create and deregister images.

    def create_image(self) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.create_image(
            self._get_param("InstanceId"),
            self._get_param("Name"),
            self._get_param("Description", ""),
            self._get_param("TagSpecifications", []),
            reboot=not self._flag("NoReboot"),
        )
        return ActionResult({"ImageId": image.id})

    def copy_image(self) -> ActionResult:
        self.error_on_dryrun()
        request = (
            self._get_param("SourceImageId"),
            self._get_param("SourceRegion"),
            self._get_param("Name"),
            self._get_param("Description"),
        )
        image = self.ec2_backend.once(
            "CopyImage",
            self._get_param("ClientToken"),
            request,
            lambda: self.ec2_backend.copy_image(
                *request,
                tag_specifications=self._get_param("TagSpecifications", []),
                copy_tags=self._flag("CopyImageTags"),
                encrypted=self._flag("Encrypted"),
                kms_key_id=self._get_param("KmsKeyId"),
            ),
        )
        return ActionResult({"ImageId": image.id})

    def register_image(self) -> ActionResult:
        self.error_on_dryrun()
        device = self._get_param("RootDeviceName") or "/dev/sda1"
        mappings = {disk["DeviceName"]: disk for disk in self._get_param("BlockDeviceMappings", [])}
        image = self.ec2_backend.register_image(
            self._get_param("Name"),
            self._get_param("Description", ""),
            snapshot_id=mappings.get(device, {}).get("Ebs", {}).get("SnapshotId", ""),
            tag_specifications=self._get_param("TagSpecifications", []),
            arch=self._get_param("Architecture") or "i386",
            device=device,
            boot_mode=self._get_param("BootMode"),
            virtualization_type=self._get_param("VirtualizationType") or "paravirtual",
            ena_support=self._flag("EnaSupport"),
            imds_support=self._get_param("ImdsSupport"),
        )
        return ActionResult({"ImageId": image.id})

    def deregister_image(self) -> ActionResult:
        ami_id = self._get_param("ImageId")
        self.error_on_dryrun()
        backend = self.ec2_backend
        image = backend.own_image(ami_id)
        backend.deregister_image(ami_id)
        result: dict[str, Any] = {"Return": True}
        if self._flag("DeleteAssociatedSnapshots"):
            code = "success" if backend.delete_unused(image.ebs_snapshot.id) else "skipped"
            result["DeleteSnapshotResults"] = [{"SnapshotId": image.ebs_snapshot.id, "ReturnCode": code}]
        return ActionResult(result)

    def _parse_block_device_mapping(self) -> list[dict[str, Any]]:
        """Drop moto's defaults for fields that the request leaves out; the AMI's values apply instead."""
        parsed = super()._parse_block_device_mapping()
        asked = {disk["DeviceName"]: disk for disk in self._get_param("BlockDeviceMappings", [])}
        for mapping in parsed:
            requested = asked[mapping["DeviceName"]].get("Ebs", {})
            for key in ("DeleteOnTermination", "Encrypted"):
                if key not in requested:
                    mapping.get("Ebs", {}).pop(key, None)
        return parsed

    @staticmethod
    def _validate_block_device_mapping(device_mapping: dict[str, Any]) -> None:
        """Validate a device mapping; assume 1 GiB if it omits the size, as it may for a disk of the AMI."""
        if ebs := device_mapping.get("Ebs"):
            device_mapping = {**device_mapping, "Ebs": {"VolumeSize": 1, **ebs}}
        InstanceResponse._validate_block_device_mapping(device_mapping)

    # Actions that describe and change images.

    def describe_images(self) -> ActionResult:
        self.error_on_dryrun()
        images = self.ec2_backend.describe_images(
            ami_ids=self._get_param("ImageIds", []),
            filters=self._filters_from_querystring(),
            exec_users=self._get_param("ExecutableUsers", []),
            owners=self._get_param("Owners", []),
            disabled=self._flag("IncludeDisabled"),
        )
        return ActionResult({"Images": images})

    def describe_image_attribute(self) -> ActionResult:
        """Answer for attributes that moto does not have, such as the time of the last launch."""
        ami_id, attribute = self._get_param("ImageId"), self._get_param("Attribute")
        fields = {
            "lastLaunchedTime": ("LastLaunchedTime", "last_launched_time"),
            "imdsSupport": ("ImdsSupport", "imds_support"),
            "deregistrationProtection": ("DeregistrationProtection", "protection"),
            "description": ("Description", "description"),
        }
        if attribute not in fields:
            return super().describe_image_attribute()
        name, field = fields[attribute]
        value = getattr(self.ec2_backend.own_image(ami_id), field)
        return ActionResult({"ImageId": ami_id, name: {"Value": value} if value else {}})

    def modify_image_attribute(self) -> ActionResult:
        attribute, ami_id = self._get_param("Attribute"), self._get_param("ImageId")
        for name, parameter in _ATTRIBUTES.items():
            given = self._get_param(parameter)
            if attribute == name or given:
                self.error_on_dryrun()
                image = self.ec2_backend.own_image(ami_id, state="available")
                _change(image, name, (given or {}).get("Value") or self._get_param("Value"))
                return ActionResult({"Return": True})
        return super().modify_image_attribute()

    def enable_image_deprecation(self) -> ActionResult:
        moment = self._get_param("DeprecateAt")
        return self._on_image(lambda ami_id: self.ec2_backend.deprecate(ami_id, moment))

    def disable_image_deprecation(self) -> ActionResult:
        return self._on_image(lambda ami_id: self.ec2_backend.deprecate(ami_id, None))

    def enable_image_deregistration_protection(self) -> ActionResult:
        cooldown = self._flag("WithCooldown")
        return self._on_image(lambda ami_id: self.ec2_backend.protect(ami_id, cooldown=cooldown))

    def disable_image_deregistration_protection(self) -> ActionResult:
        return self._on_image(self.ec2_backend.unprotect)

    # Actions for fast snapshot restore and fast launch.

    def enable_fast_snapshot_restores(self) -> ActionResult:
        return self._fast_restores("enabling", "enabled")

    def disable_fast_snapshot_restores(self) -> ActionResult:
        return self._fast_restores("disabling", "disabled")

    def _fast_restores(self, state: str, final_state: str) -> ActionResult:
        zones = self._get_param("AvailabilityZones") or []
        snapshots = self._get_param("SourceSnapshotIds") or []
        self.error_on_dryrun()
        done, failed = [], []
        for snapshot in snapshots:
            for zone in zones:
                if error := self.ec2_backend.set_fast_restore(snapshot, zone, final_state):
                    item = {"AvailabilityZone": zone, "Error": error}
                    failed.append({"SnapshotId": snapshot, "FastSnapshotRestoreStateErrors": [item]})
                else:
                    done.append(self._fast_restore(snapshot, zone, state))
        return ActionResult({"Successful": done, "Unsuccessful": failed})

    def describe_fast_snapshot_restores(self) -> ActionResult:
        filters: dict[str, Any] = self._filters_from_querystring()
        fields = {"snapshot-id": "SnapshotId", "availability-zone": "AvailabilityZone", "state": "State"}
        found = [
            self._fast_restore(snapshot, zone, state)
            for (snapshot, zone), state in self.ec2_backend.fast_restores.items()
        ]
        for name, values in filters.items():
            found = [restore for restore in found if name not in fields or restore[fields[name]] in values]
        return ActionResult({"FastSnapshotRestores": found})

    def _fast_restore(self, snapshot: str, zone: str, state: str) -> dict[str, Any]:
        return {
            "SnapshotId": snapshot,
            "AvailabilityZone": zone,
            "State": state,
            "StateTransitionReason": "Client.UserInitiated",
            "OwnerId": self.current_account,
            "EnablingTime": datetime.now(UTC),
        }

    def enable_fast_launch(self) -> ActionResult:
        """Refuse fast launch, which EC2 offers for Windows AMIs only."""
        ami_id = self._get_param("ImageId")
        self.error_on_dryrun()
        self.ec2_backend.own_image(ami_id)
        raise EC2ClientError("InvalidParameter", f"Fast launch is for Windows AMIs; {ami_id} is for Linux")

    disable_fast_launch = enable_fast_launch

    def describe_fast_launch_images(self) -> ActionResult:
        return ActionResult({"FastLaunchImages": []})


def _change(image: Image, attribute: str, value: str | None) -> None:
    if attribute == "description":
        image.description = value or ""
    elif value == "v2.0":
        image.imds_support = value
    else:  # as in EC2, an AMI that requires tokens cannot be changed back
        raise EC2ClientError("InvalidParameterValue", f"Value ({value}) for parameter imdsSupport is invalid")
