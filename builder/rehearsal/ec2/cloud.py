"""EC2 of a rehearsal: moto's, whose instances are machines on this host and whose AMIs are their disks.

Owns what happens to an instance between RunInstances and TerminateInstances, and that it has no address but
those of this host.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from moto.ec2.exceptions import (
    EC2ClientError,
    InvalidAMIIdError,
    InvalidKeyPairNameError,
    UnvailableAMIIdError,
)
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance, InstanceState, MetadataOptions, Reservation
from moto.ssm.models import ssm_backends

from builder.rehearsal.addresses import NOWHERE, require_loopback
from builder.rehearsal.ec2 import metadata, userdata
from builder.rehearsal.ec2.hosts import Launch
from builder.rehearsal.ec2.images import Image, ImageBackend
from builder.rehearsal.ec2.seeds import Account

_NO_TOKEN = "ABCDE"  # noqa: S105 (what moto puts in where a request has no client token)
_BY_PARAMETER = "resolve:ssm:"
_USER_DATA_LIMIT = 16384
# The arguments of ModifyInstanceMetadataOptions that are not named as what they set.
_OPTIONS = {
    "http_protocol_ipv6": "http_protocol",
    "http_put_response_hop_limit": "hop_limit",
    "instance_metadata_tags": "metadata_tags",
}


class Cloud(ImageBackend):
    """One region of one account."""

    __module__ = "moto.ec2.models"

    account: ClassVar[Account]
    machines: ClassVar[Mapping[str, str]]

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.answered: dict[tuple[str, str], tuple[object, Any]] = {}
        self.token_locks: dict[str, threading.Lock] = {}
        for seed in self.account.seeds:
            image = self.plant(seed, self.account.created)
            if seed.starts and seed.system in self.machines:
                self.metal.adopt(image.ebs_snapshot.id, self.machines[seed.system])

    def reset(self) -> None:
        """What moto's own reset forgets would go on running here."""
        for instance in self.all_instances():
            if instance.state != "terminated":
                self.metal.remove(instance.id)
        super().reset()

    def once(self, operation: str, token: str | None, request: object, make: Callable[[], Any]) -> Any:
        """A client token has one answer; who repeats a request while it is being made waits for that."""
        if not token or token == _NO_TOKEN:
            return make()
        key = (operation, token)
        with self.token_locks.setdefault(token, threading.Lock()):
            if key not in self.answered:
                self.answered[key] = (request, make())
            before, answer = self.answered[key]
        if before != request:
            raise EC2ClientError(
                "IdempotentParameterMismatch",
                f"The client token {token} was used before with other parameters",
            )
        return answer

    # Starting.

    def run_instances(
        self, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
    ) -> Reservation:
        request = (image_id, count, kwargs.get("instance_type"), kwargs.get("key_name"), str(user_data))
        made: Reservation = self.once(
            "RunInstances",
            kwargs.get("client_token"),
            request,
            lambda: self._run(image_id, count, user_data, security_group_names, **kwargs),
        )
        return made

    def _run(
        self, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
    ) -> Reservation:
        image = self._launchable(self._resolved(image_id))
        _check_type(image, str(kwargs.get("instance_type")))
        if (name := kwargs.get("key_name")) and name not in self.key_pairs:
            raise InvalidKeyPairNameError(name)
        if image.imds_support == "v2.0":
            options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
            kwargs["metadata_options"] = {**options, **(kwargs.get("metadata_options") or {})}
        kwargs["block_device_mappings"] = _disks(image, kwargs.get("block_device_mappings"))
        script = _first_boot(metadata.decoded(user_data))
        reservation = super().run_instances(image.id, count, user_data, security_group_names, **kwargs)
        try:
            for instance in reservation.instances:
                self._boot(instance, image, script)
        except BaseException:
            self.terminate_instances([instance.id for instance in reservation.instances])
            raise
        image.last_launched_time = f"{reservation.instances[0].launch_time:%Y-%m-%dT%H:%M:%S}.000Z"
        return reservation

    def _resolved(self, image_id: str) -> str:
        if not image_id.startswith(_BY_PARAMETER):
            return image_id
        name = image_id.removeprefix(_BY_PARAMETER)
        versions = ssm_backends[self.account_id][self.region_name]._parameters
        if name not in versions:
            raise EC2ClientError("InvalidParameterValue", f"SSM parameter {name} could not be resolved")
        return str(versions[name][-1].value)

    def _launchable(self, image_id: str) -> Image:
        image = self.amis.get(image_id)
        if not isinstance(image, Image):
            raise (
                UnvailableAMIIdError(image_id)
                if image_id in self.deleted_amis
                else InvalidAMIIdError(image_id)
            )
        if image.state != "available":
            raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is {image.state}")
        if not self.metal.can_start(image.ebs_snapshot.id):
            raise EC2ClientError(
                "Unsupported",
                f"The rehearsal knows {image.name} and has no machine for it: it starts only systems "
                "that are made from an archive on this host",
            )
        return image

    def _boot(self, instance: Instance, image: Image, script: str) -> None:
        key = metadata.key_pair(self, instance)
        address = require_loopback(self.metal.take_address())
        _give_address(instance, address)
        self.metal.launch(
            Launch(
                instance=instance.id,
                snapshot=image.ebs_snapshot.id,
                address=address,
                hostname=instance.private_dns_name.split(".")[0],
                metadata=metadata.describe(self, instance),
                public_key=key.public_key if key else "",
                script=script,
            )
        )

    def create_network_interface(self, *args: Any, **kwargs: Any) -> NetworkInterface:
        """Without an address of moto's, because those that it takes for public belong to somebody."""
        made = super().create_network_interface(*args, **kwargs)
        made.wants_public_ip = str(made.public_ip_auto_assign).lower() == "true"  # type: ignore[attr-defined]
        made.public_ip_auto_assign = False
        made.public_ip = None
        _set_private(made, NOWHERE)
        return made

    # Between start and end.

    def stop_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        running = [one for one in self.get_multi_instances_by_id(instance_ids) if one.state == "running"]
        if not any(one.disable_api_stop for one in running):
            for instance in running:
                self.metal.stop(instance.id)
        return super().stop_instances(instance_ids)

    def start_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        for instance in self.get_multi_instances_by_id(instance_ids):
            _require_state(instance, "running", "stopped")
            if instance.state == "stopped":
                self.metal.start(instance.id, str(instance.private_ip_address))
        return super().start_instances(instance_ids)

    def reboot_instances(self, instance_ids: list[str]) -> list[Instance]:
        for instance in self.get_multi_instances_by_id(instance_ids):
            _require_state(instance, "running")
            self.metal.reboot(instance.id, str(instance.private_ip_address))
        return super().reboot_instances(instance_ids)

    def terminate_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        living = [one for one in self.get_multi_instances_by_id(instance_ids) if one.state != "terminated"]
        ended = super().terminate_instances(instance_ids)
        for instance in living:
            self.metal.remove(instance.id)
            self.metal.release_address(str(instance.private_ip_address))
        return ended

    # What the metadata service tells.

    def modify_instance_metadata_options(
        self, instance_id: str, *args: Any, **kwargs: Any
    ) -> MetadataOptions:
        """What a request leaves out stays as it was."""
        before = vars(self.get_instance(instance_id).metadata_options)
        options = super().modify_instance_metadata_options(instance_id, *args, **kwargs)
        for field, value in before.items():
            if kwargs.get(_OPTIONS.get(field, field)) is None:
                setattr(options, field, value)
        self._tell(instance_id)
        return options

    def associate_iam_instance_profile(self, instance_id: str, *args: Any, **kwargs: Any) -> Any:
        made = super().associate_iam_instance_profile(instance_id, *args, **kwargs)
        self._tell(instance_id)
        return made

    def create_tags(self, resource_ids: list[str], tags: dict[str, str]) -> bool:
        done = super().create_tags(resource_ids, tags)
        for name in resource_ids:
            self._tell(name, only_tags=True)
        return done

    def delete_tags(self, resource_ids: list[str], tags: dict[str, str]) -> bool:
        done = super().delete_tags(resource_ids, tags)
        for name in resource_ids:
            self._tell(name, only_tags=True)
        return done

    def _tell(self, instance_id: str, *, only_tags: bool = False) -> None:
        found = self.get_instance_by_id(instance_id) if instance_id.startswith("i-") else None
        if found is None or found.state == "terminated" or found.private_ip_address == NOWHERE:
            return
        if not only_tags or found.metadata_options.instance_metadata_tags == "enabled":
            self.metal.tell(instance_id, metadata.describe(self, found))


def _first_boot(user_data: bytes) -> str:
    if len(user_data) > _USER_DATA_LIMIT:
        raise EC2ClientError("InvalidParameterValue", f"User data is limited to {_USER_DATA_LIMIT} bytes")
    try:
        return userdata.to_script(user_data)
    except userdata.Unsupported as error:
        raise EC2ClientError("Unsupported", str(error)) from error


def _require_state(instance: Instance, *states: str) -> None:
    if instance.state not in states:
        raise EC2ClientError("IncorrectInstanceState", f"The instance '{instance.id}' is {instance.state}")


def _check_type(image: Image, instance_type: str) -> None:
    if instance_type not in INSTANCE_TYPES:
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    known = INSTANCE_TYPES[instance_type]["ProcessorInfo"]["SupportedArchitectures"]
    if image.architecture not in known:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The architecture '{'/'.join(known)}' of the specified instance type does not match the "
            f"architecture '{image.architecture}' of the specified AMI.",
        )


def _disks(image: Image, asked: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The disks of an instance: the AMI's, changed by what the request says."""
    snapshot = image.ebs_snapshot
    root = {
        "DeviceName": image.root_device_name,
        "Ebs": {
            "VolumeSize": snapshot.volume.size,
            "VolumeType": snapshot.volume.volume_type,
            "Encrypted": snapshot.encrypted,
            "KmsKeyId": snapshot.kms_key_id,
            "DeleteOnTermination": True,
            "SnapshotId": snapshot.id,
        },
    }
    disks: dict[str, dict[str, Any]] = {image.root_device_name: root}
    for disk in asked or ():
        if disk.get("NoDevice") == "":
            disks.pop(disk["DeviceName"], None)
            continue
        before = disks.get(disk["DeviceName"], {}).get("Ebs", {})
        said = {key: value for key, value in disk["Ebs"].items() if value is not None}
        ebs = {**before, **said}
        ebs["Encrypted"] = bool(before.get("Encrypted") or said.get("Encrypted"))
        disks[disk["DeviceName"]] = {**disk, "Ebs": ebs}
    return list(disks.values())


def _give_address(instance: Instance, address: str) -> None:
    nic = instance.nics[0]
    _set_private(nic, address)
    nic.public_ip = address if getattr(nic, "wants_public_ip", False) else None


def _set_private(nic: NetworkInterface, address: str) -> None:
    name = f"ip-{address.replace('.', '-')}.ec2.internal"
    nic.private_ip_address = address
    nic.private_dns_name = name
    nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": address, "PrivateDnsName": name}]
