"""Fleets of the rehearsal: an instant fleet starts one spot instance from a launch template."""

import secrets
from collections.abc import Mapping
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.instances import Instance
from moto.ec2.utils import convert_tag_spec

_NO_SPOT = "There is no Spot capacity available that matches your request."


class Fleet(TaggedEC2Resource):
    """An instant fleet with its instance, if EC2 had capacity for one."""

    def __init__(self, backend: Any, tags: Mapping[str, str]) -> None:
        self.ec2_backend = backend
        self.id = f"fleet-{secrets.token_hex(16)}"
        self.fleet_state = self.state = "active"
        self.type = "instant"
        self.create_time = utcnow()
        self.target_capacity = 1
        self.instance: Instance | None = None
        self.add_tags(dict(tags))

    @property
    def tags(self) -> list[dict[str, str]]:
        return self.get_tags()

    def terminate_instances(self) -> None:
        if self.instance and self.instance.state != "terminated":
            self.ec2_backend.terminate_instances([self.instance.id])
        self.fleet_state = "deleted_terminating"


def create(backend: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Create the fleet of a CreateFleet request and start its spot instance; return the answer."""
    if request.get("Type") != "instant" or _is_on_demand(request):
        raise EC2ClientError("Unsupported", "The rehearsal knows only instant fleets of spot instances")
    (config,) = request["LaunchTemplateConfigs"]
    data = _data(backend, config["LaunchTemplateSpecification"])
    types = [each["InstanceType"] for each in config.get("Overrides") or [data]]
    given = convert_tag_spec(request.get("TagSpecifications") or [])
    fleet = Fleet(backend, given.get("fleet", {}))
    backend.fleets[fleet.id] = fleet
    chosen = {"InstanceType": types[0], "Lifecycle": "spot"}
    if not backend.rules.has_spot:
        error = {"ErrorCode": "InsufficientInstanceCapacity", "ErrorMessage": _NO_SPOT, "Lifecycle": "spot"}
        return {"FleetId": fleet.id, "Errors": [error], "Instances": []}
    fleet.instance = _start(backend, fleet, data, types[0], request.get("ClientToken", ""))
    return {"FleetId": fleet.id, "Errors": [], "Instances": [{**chosen, "InstanceIds": [fleet.instance.id]}]}


def _is_on_demand(request: Mapping[str, Any]) -> bool:
    capacity = request.get("TargetCapacitySpecification") or {}
    return capacity.get("DefaultTargetCapacityType") != "spot" or capacity.get("TotalTargetCapacity") != 1


def _data(backend: Any, specification: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the data of the launch template that a request names."""
    if name := specification.get("LaunchTemplateName"):
        template = backend.get_launch_template_by_name(name)
    else:
        template = backend.get_launch_template(specification["LaunchTemplateId"])
    data: Mapping[str, Any] = template.get_version(specification.get("Version", "$Default")).data
    return data


def _start(backend: Any, fleet: Fleet, data: Mapping[str, Any], instance_type: str, token: str) -> Instance:
    """Start an instance as RunInstances would with the data of the launch template."""
    tags = convert_tag_spec(data.get("TagSpecifications") or [])
    instance_tags = {**tags.get("instance", {}), "aws:ec2:fleet-id": fleet.id}
    more = {"block_device_mappings": disks} if (disks := data.get("BlockDeviceMappings")) else {}
    reservation = backend.run_instances(
        data["ImageId"],
        1,
        data.get("UserData") or None,
        [],
        instance_type=instance_type,
        is_instance_type_default=False,
        placement=(data.get("Placement") or {}).get("AvailabilityZone") or None,
        region_name=backend.region_name,
        subnet_id=None,
        key_name=data.get("KeyName"),
        security_group_ids=data.get("SecurityGroupIds") or [],
        nics=data.get("NetworkInterfaces") or [],
        private_ip=None,
        associate_public_ip=None,
        tags={**tags, "instance": instance_tags},
        ebs_optimized=data.get("EbsOptimized") or False,
        instance_market_options="spot",
        metadata_options=data.get("MetadataOptions") or {},
        client_token=f"{token} of a fleet" if token else "",
        **more,
    )
    (instance,) = reservation.instances
    instance.spot_instance_request_id = f"sir-{secrets.token_hex(4)}"
    if profile := (data.get("IamInstanceProfile") or {}).get("Name"):
        backend.associate_iam_instance_profile(instance_id=instance.id, iam_instance_profile_name=profile)
    found: Instance = instance
    return found
