"""EC2 of the rehearsal: moto's EC2 backend, with containers on this host as instances.

Owns the life of an instance from RunInstances to TerminateInstances, and ensures that instances have loopback
addresses only.
"""

import threading
import time
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

from builder.rehearsal.addresses import UNASSIGNED, require_loopback
from builder.rehearsal.ec2 import metadata, userdata
from builder.rehearsal.ec2.hosts import Launch
from builder.rehearsal.ec2.images import Image, ImageBackend
from builder.rehearsal.ec2.seeds import Account

_NO_TOKEN = "ABCDE"  # noqa: S105 (moto's placeholder for requests without a client token)
_GATEWAY, _NAT = "internet gateway", "NAT gateway"
_BY_PARAMETER = "resolve:ssm:"
_USER_DATA_LIMIT = 16384
# Arguments of moto's modify_instance_metadata_options whose names differ from the names of the options.
_OPTIONS = {
    "http_protocol_ipv6": "http_protocol",
    "http_put_response_hop_limit": "hop_limit",
    "instance_metadata_tags": "metadata_tags",
}


class Cloud(ImageBackend):
    """EC2 in one region of the account."""

    __module__ = "moto.ec2.models"

    account: ClassVar[Account]
    machines: ClassVar[Mapping[str, str]]

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.answered: dict[tuple[str, str], tuple[object, Any]] = {}
        self.token_locks: dict[str, threading.Lock] = {}
        self.starting: dict[str, bool] = {}  # pending instance: whether DescribeInstances has returned it
        self.online: set[str] = set()  # instances that reach the internet
        self.listed_at: dict[str, float] = {}
        self._open_default_vpc()
        for seed in self.account.seeds:
            image = self.seed_image(seed, self.account.created)
            if seed.starts and seed.system in self.machines:
                self.instances_backend.tag_snapshot(image.ebs_snapshot.id, self.machines[seed.system])

    def reset(self) -> None:
        """Remove the machines of instances before moto drops its objects."""
        for instance in self.every_instance():
            if instance.state != "terminated":
                self.instances_backend.remove(instance.id)
        super().reset()

    def _open_default_vpc(self) -> None:
        """Give the default VPC its route to the internet, which moto leaves out."""
        gateway = self.create_internet_gateway()
        self.attach_internet_gateway(gateway.id, self.default_vpc.id)
        main = self.describe_route_tables(filters={"vpc-id": [self.default_vpc.id]})[0]
        self.create_route(main.id, "0.0.0.0/0", gateway_id=gateway.id)

    def every_instance(self) -> list[Instance]:
        """Return all instances, also those that EC2 does not list yet."""
        return [instance for each in list(self.reservations.values()) for instance in each.instances]

    def all_reservations(self, filters: Any = None) -> list[Reservation]:
        now, found = time.time(), super().all_reservations(filters)
        return [
            each
            for each in found
            if not any(self.listed_at.get(instance.id, 0.0) > now for instance in each.instances)
        ]

    def finish_starting(self) -> None:
        """Start the pending instances that DescribeInstances has returned: each is seen as pending once."""
        for instance in self.every_instance():
            if self.starting.get(instance.id) and instance.state == "pending":
                instance._state = InstanceState("running", 16)
            if instance.id in self.starting:
                self.starting[instance.id] = True

    def metadata_defaults(self) -> dict[str, str]:
        return {"HttpTokensEnforced": "enabled" if self.rules.enforces_tokens else "disabled"}

    def once(self, operation: str, token: str | None, request: object, make: Callable[[], Any]) -> Any:
        """Execute a request with a client token once; give repeated requests the same answer."""
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
        reservation: Reservation = self.once(
            "RunInstances",
            kwargs.get("client_token"),
            request,
            lambda: self._run(image_id, count, user_data, security_group_names, **kwargs),
        )
        return reservation

    def _run(
        self, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
    ) -> Reservation:
        image = self._launchable_image(self._resolve_parameter(image_id))
        _check_type(image, str(kwargs.get("instance_type")))
        self._require_quota(str(kwargs.get("instance_type")), count)
        if (name := kwargs.get("key_name")) and name not in self.key_pairs:
            raise InvalidKeyPairNameError(name)
        if image.imds_support == "v2.0":
            options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
            kwargs["metadata_options"] = {**options, **(kwargs.get("metadata_options") or {})}
        if self.rules.enforces_tokens:
            _require_tokens(kwargs.get("metadata_options") or {})
        kwargs["block_device_mappings"] = _disks(image, kwargs.get("block_device_mappings"))
        script = _first_boot(metadata.decoded(user_data))
        reservation = super().run_instances(image.id, count, user_data, security_group_names, **kwargs)
        try:
            for instance in reservation.instances:
                self._boot(instance, image, script)
        except BaseException:
            self.terminate_instances([instance.id for instance in reservation.instances])
            raise
        listed_at = time.time() + self.rules.unlisted_s
        self.listed_at |= {instance.id: listed_at for instance in reservation.instances}
        image.last_launched_time = f"{reservation.instances[0].launch_time:%Y-%m-%dT%H:%M:%S}.000Z"
        return reservation

    def _require_quota(self, instance_type: str, count: int) -> None:
        running = [each for each in self.every_instance() if each.state in ("pending", "running")]
        wanted = sum(_vcpus(each.instance_type) for each in running) + count * _vcpus(instance_type)
        if wanted > self.rules.vcpus:
            raise EC2ClientError(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of {self.rules.vcpus}",
            )

    def _resolve_parameter(self, image_id: str) -> str:
        if not image_id.startswith(_BY_PARAMETER):
            return image_id
        name = image_id.removeprefix(_BY_PARAMETER)
        parameter = ssm_backends[self.account_id][self.region_name].get_parameter(name)
        if parameter is None:
            raise EC2ClientError("InvalidParameterValue", f"SSM parameter {name} could not be resolved")
        return str(parameter.value)

    def _launchable_image(self, image_id: str) -> Image:
        image = self.amis.get(image_id) or self.shared_images().get(image_id)
        if not isinstance(image, Image):
            raise (
                UnvailableAMIIdError(image_id)
                if image_id in self.deleted_amis
                else InvalidAMIIdError(image_id)
            )
        if image.state != "available":
            raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is {image.state}")
        if not self.instances_backend.can_start(image.ebs_snapshot.id):
            raise EC2ClientError(
                "Unsupported",
                f"The rehearsal has no machine image for {image.name}: it starts only systems that can be "
                "bootstrapped on this host",
            )
        return image

    def _boot(self, instance: Instance, image: Image, script: str) -> None:
        key = metadata.key_pair(self, instance)
        address = self._assign_addresses(instance)
        is_online = bool(address) or self._route_of(instance) == _NAT
        self.instances_backend.launch(
            Launch(
                instance=instance.id,
                snapshot=image.ebs_snapshot.id,
                address=address,
                reaches_internet=is_online,
                hostname=instance.private_dns_name.split(".")[0],
                metadata=metadata.describe(self, instance),
                public_key=key.public_key if key else "",
                script=script,
            )
        )
        instance._state = InstanceState("pending", 0)
        self.starting[instance.id] = False
        self.online |= {instance.id} if is_online else set()

    def _assign_addresses(self, instance: Instance) -> str:
        """Assign an instance its addresses; return the one at which this host reaches it, "" for none.

        From outside the VPC, this host reaches an instance only at a public address, through the subnet's
        route to the internet. No process listens at the instance's other address.
        """
        nic, inside = instance.nics[0], self.rules.is_inside
        is_public = getattr(nic, "wants_public_ip", False)
        is_reached = inside or (is_public and self._route_of(instance) == _GATEWAY)
        address = require_loopback(self.instances_backend.take_address()) if is_reached else ""
        private = address if inside else require_loopback(self.instances_backend.take_address())
        _set_private(nic, private)
        nic.public_ip = (address or private) if is_public else None
        self.bound[instance.id] = address
        return address

    def _route_of(self, instance: Instance) -> str:
        """Return the kind of gateway through which an instance's subnet reaches the internet; "" for none."""
        tables = self.describe_route_tables(filters={"association.subnet-id": [str(instance.subnet_id)]})
        main = {"vpc-id": [str(instance.vpc_id)], "association.main": ["true"]}
        (table,) = tables or self.describe_route_tables(filters=main)
        for route in table.routes:
            if route.destination_cidr_block == "0.0.0.0/0":
                return _GATEWAY if route.gateway else _NAT if route.nat_gateway else ""
        return ""

    def create_network_interface(self, *args: Any, **kwargs: Any) -> NetworkInterface:
        """Create an interface without moto's addresses, whose public ones belong to real hosts."""
        nic = super().create_network_interface(*args, **kwargs)
        nic.wants_public_ip = str(nic.public_ip_auto_assign).lower() == "true"  # type: ignore[attr-defined]
        nic.public_ip_auto_assign = False
        nic.public_ip = None
        _set_private(nic, UNASSIGNED)
        return nic

    # Actions that stop, start and terminate instances.

    def stop_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        instances = self.get_multi_instances_by_id(instance_ids)
        for instance in instances:
            _require_state(instance, "running", "stopping", "stopped")
        running = [instance for instance in instances if instance.state == "running"]
        if not any(instance.disable_api_stop for instance in running):
            for instance in running:
                self.instances_backend.stop(instance.id)
        return super().stop_instances(instance_ids)

    def start_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        for instance in self.get_multi_instances_by_id(instance_ids):
            _require_state(instance, "running", "stopped")
            if instance.state == "stopped":
                self.instances_backend.start(instance.id, self.bound[instance.id])
        return super().start_instances(instance_ids)

    def reboot_instances(self, instance_ids: list[str]) -> list[Instance]:
        for instance in self.get_multi_instances_by_id(instance_ids):
            _require_state(instance, "running")
            self.instances_backend.reboot(instance.id, self.bound[instance.id])
        return super().reboot_instances(instance_ids)

    def terminate_instances(self, instance_ids: list[str]) -> list[tuple[Instance, InstanceState]]:
        instances = self.get_multi_instances_by_id(instance_ids)
        living = [instance for instance in instances if instance.state != "terminated"]
        ended = super().terminate_instances(instance_ids)
        for instance in living:
            self.instances_backend.remove(instance.id)
            for address in {self.bound[instance.id], str(instance.private_ip_address)} - {""}:
                self.instances_backend.release_address(address)
        return ended

    # Metadata service.

    def modify_instance_metadata_options(
        self, instance_id: str, *args: Any, **kwargs: Any
    ) -> MetadataOptions:
        """Change the options in the request and keep all others, which moto would reset."""
        _require_state(self.get_instance(instance_id), "running", "stopped")
        before = vars(self.get_instance(instance_id).metadata_options)
        options = super().modify_instance_metadata_options(instance_id, *args, **kwargs)
        for field, value in before.items():
            if kwargs.get(_OPTIONS.get(field, field)) is None:
                setattr(options, field, value)
        self._update_metadata(instance_id)
        return options

    def associate_iam_instance_profile(self, instance_id: str, *args: Any, **kwargs: Any) -> Any:
        association = super().associate_iam_instance_profile(instance_id, *args, **kwargs)
        self._update_metadata(instance_id)
        return association

    def create_tags(self, resource_ids: list[str], tags: dict[str, str]) -> bool:
        addresses = {address.public_ip: address.allocation_id for address in self.addresses}
        # CloudFormation of moto tags an Elastic IP address by its public IP; EC2 lists tags by allocation id.
        resource_ids = [addresses.get(name) or name for name in resource_ids]
        done = super().create_tags(resource_ids, tags)
        for name in resource_ids:
            self._update_metadata(name, only_tags=True)
        return done

    def delete_tags(self, resource_ids: list[str], tags: dict[str, str]) -> bool:
        done = super().delete_tags(resource_ids, tags)
        for name in resource_ids:
            self._update_metadata(name, only_tags=True)
        return done

    def _update_metadata(self, instance_id: str, *, only_tags: bool = False) -> None:
        found = self.get_instance_by_id(instance_id) if instance_id.startswith("i-") else None
        if found is None or found.state == "terminated" or found.private_ip_address == UNASSIGNED:
            return
        if not only_tags or found.metadata_options.instance_metadata_tags == "enabled":
            self.instances_backend.update_metadata(instance_id, metadata.describe(self, found))


def _first_boot(user_data: bytes) -> str:
    if len(user_data) > _USER_DATA_LIMIT:
        raise EC2ClientError("InvalidParameterValue", f"User data is limited to {_USER_DATA_LIMIT} bytes")
    try:
        return userdata.to_script(user_data)
    except userdata.Unsupported as error:
        raise EC2ClientError("Unsupported", str(error)) from error


def _require_tokens(options: Mapping[str, Any]) -> None:
    if options.get("HttpTokens") != "required":
        raise EC2ClientError(
            "UnsupportedOperation",
            "You can't launch instances with IMDSv1 because httpTokensEnforced is enabled for this account."
            " Launch the instance with httpTokens=required",
        )


def _require_state(instance: Instance, *states: str) -> None:
    if instance.state not in states:
        raise EC2ClientError("IncorrectInstanceState", f"The instance '{instance.id}' is {instance.state}")


def _vcpus(instance_type: str) -> int:
    return int(INSTANCE_TYPES[instance_type]["VCpuInfo"]["DefaultVCpus"])


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
    """Return the disks of an instance: those of the AMI, overridden by the request."""
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
        requested = {key: value for key, value in disk["Ebs"].items() if value is not None}
        ebs = {**before, **requested}
        ebs["Encrypted"] = bool(before.get("Encrypted") or requested.get("Encrypted"))
        disks[disk["DeviceName"]] = {**disk, "Ebs": ebs}
    return list(disks.values())


def _set_private(nic: NetworkInterface, address: str) -> None:
    name = f"ip-{address.replace('.', '-')}.ec2.internal"
    nic.private_ip_address = address
    nic.private_dns_name = name
    nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": address, "PrivateDnsName": name}]
