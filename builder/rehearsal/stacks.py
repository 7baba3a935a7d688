"""CloudFormation of a rehearsal: refuses templates with resource types that moto lacks, and adds three types.

moto itself skips unknown types with a warning and reports the stack as complete.
"""

import json
from collections.abc import Callable, Iterator
from string import Template
from typing import Any

from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import ChangeSet, CloudFormationBackend, cloudformation_backends
from moto.core.common_models import CloudFormationModel
from moto.core.exceptions import ServiceException
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.elastic_ip_addresses import ElasticAddress
from moto.ec2.models.internet_gateways import InternetGateway
from moto.ec2.models.nat_gateways import NatGateway
from moto.ec2.models.route_tables import RouteTable
from moto.s3.models import s3_backends
from moto.ssm.models import ssm_backends
from moto.utilities.utils import get_partition

_MOTO_CLEAN_JSON = parsing.clean_json
_DELETE = "delete_from_cloudformation_json"
_MOTO_SSM_VALUE = parsing.ResourceMap.parse_ssm_parameter


class Stacks(CloudFormationBackend):
    """CloudFormation that checks resource types and executes a change set as CreateStack or UpdateStack."""

    __module__ = "moto.cloudformation.models"  # moto derives the service from it

    def create_change_set(
        self, stack_name: str, change_set_name: str, template: str, *rest: Any, **more: Any
    ) -> tuple[str, str]:
        found = super().create_change_set(stack_name, change_set_name, template, *rest, **more)
        try:
            self._require_usable(self.change_sets[found[0]])
        except ValidationError:
            del self.change_sets[found[0]]
            if self.stacks[found[1]].status == "REVIEW_IN_PROGRESS":
                del self.stacks[found[1]]
            raise
        return found

    def _require_usable(self, change_set: ChangeSet) -> None:
        """Raise ValidationError for unknown types, missing SSM parameters and missing exports."""
        template = change_set.template_dict
        types = {resource["Type"] for resource in template.get("Resources", {}).values()}
        if missing := sorted(types - set(parsing.get_model_map())):
            raise ValidationError(message=f"The rehearsal has no resources of type {', '.join(missing)}")
        values = {}
        for name, declared in template.get("Parameters", {}).items():
            values[name] = str(change_set.parameters.get(name, declared.get("Default", "")))
            if declared["Type"].startswith("AWS::SSM::Parameter::Value"):
                self._require_parameter(values[name])
        for name in {Template(text).safe_substitute(values) for text in _imports(template)}:
            if name not in self.exports:
                raise ValidationError(message=f"No export named {name} found.")

    def _require_parameter(self, name: str) -> None:
        if ssm_backends[self.account_id][self.region_name].get_parameter(name) is None:
            raise ValidationError(
                message=f"Unable to fetch parameters [{name}] from parameter store for this account."
            )

    def execute_change_set(self, change_set_name: str, stack_name: str | None = None) -> None:  # noqa: ARG002
        """Create or update the stack; moto's own method ignores mappings, conditions and exports."""
        change_set = self.describe_change_set(change_set_name)
        assert change_set is not None
        if change_set.change_set_type == "CREATE":
            del self.stacks[change_set.stack_id]
            self.create_stack(
                change_set.stack_name, change_set.template, change_set.parameters, tags=change_set.tags
            )
        else:
            given = [
                {"parameter_key": key, "parameter_value": value}
                for key, value in change_set.parameters.items()
            ]
            self.update_stack(
                change_set.stack_name, change_set.template, None, parameters=given, tags=change_set.tags
            )
        change_set.execution_status = "EXECUTE_COMPLETE"

    def delete_stack(self, name_or_stack_id: str) -> None:
        """Delete a stack; if one of its resources cannot be deleted, keep it as DELETE_FAILED."""
        stack = self.stacks.get(name_or_stack_id)
        try:
            super().delete_stack(name_or_stack_id)  # calls this method again with the id if it got the name
        except ServiceException:
            if stack is not None:
                stack.status = "DELETE_FAILED"
                self.stacks[stack.stack_id] = stack


def _clean_json(value: Any, resources: Any) -> Any:
    """Resolve functions as moto does, but leave AWS::NoValue out of lists as AWS does."""
    if not isinstance(value, list):
        return _MOTO_CLEAN_JSON(value, resources)
    found = [_clean_json(entry, resources) for entry in value]
    return [entry for entry in found if entry is not None]


def _ssm_value(resources: parsing.ResourceMap, name: str, value_type: str) -> Any:
    """Return the value of an SSM parameter; "" if it is missing: moto also reads unused defaults."""
    parameters = ssm_backends[resources._account_id][resources._region_name]
    return "" if parameters.get_parameter(name) is None else _MOTO_SSM_VALUE(resources, name, value_type)


def _deletes(delete: Callable[[EC2Backend, str], object]) -> Any:
    """Return a method that deletes a resource of a stack; `delete` gets the backend and the resource's id."""

    def method(_: type, name: str, __: Any, account_id: str, region_name: str) -> None:
        delete(ec2_backends[account_id][region_name], name)

    return classmethod(method)


def _delete_nat_gateway(ec2: EC2Backend, name: str) -> None:
    gateway = ec2.delete_nat_gateway(name)
    ec2.delete_network_interface(gateway._eni.id)


def _delete_route_table(ec2: EC2Backend, name: str) -> None:
    for association in list(ec2.get_route_table(name)._associations):
        ec2.disassociate_route_table(association)
    ec2.delete_route_table(name)


def _delete_internet_gateway(ec2: EC2Backend, name: str) -> None:
    if vpc := ec2.get_internet_gateway(name).vpc:
        ec2.detach_internet_gateway(name, vpc.id)
    ec2.delete_internet_gateway(name)


def _imports(value: Any) -> Iterator[Any]:
    """Yield the arguments of Fn::ImportValue anywhere in a template."""
    if isinstance(value, list):
        for entry in value:
            yield from _imports(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key == "Fn::ImportValue":
                yield entry["Fn::Sub"] if isinstance(entry, dict) else entry
            yield from _imports(entry)


class _Resource(CloudFormationModel):
    """Resource that only its own template refers to; removing the changed resource removes it."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def physical_resource_id(self) -> str:
        return self.name

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr == ""

    @classmethod
    def update_from_cloudformation_json(  # type: ignore[override]
        cls, original_resource: Any, **_: Any
    ) -> Any:
        return original_resource

    @classmethod
    def delete_from_cloudformation_json(cls, *_: Any) -> None:
        pass


class SecurityGroupEgress(_Resource, CloudFormationModel):
    """Egress rule of a security group."""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::EC2::SecurityGroupEgress"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> "SecurityGroupEgress":
        own = cloudformation_json["Properties"]
        group = own.get("DestinationSecurityGroupId")
        ec2_backends[account_id][region_name].authorize_security_group_egress(
            own["GroupId"],
            own["IpProtocol"],
            own.get("FromPort", ""),
            own.get("ToPort", ""),
            [{"CidrIp": own["CidrIp"]}] if "CidrIp" in own else [],
            source_groups=[{"GroupId": group}] if group else [],
        )
        return cls(resource_name)


class PlacementGroup(_Resource, CloudFormationModel):
    """Placement group, which moto does not know at all."""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::EC2::PlacementGroup"

    @classmethod
    def create_from_cloudformation_json(cls, resource_name: str, *_: Any, **__: Any) -> "PlacementGroup":
        return cls(resource_name)


class BucketPolicy(_Resource, CloudFormationModel):
    """Policy of a bucket."""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::S3::BucketPolicy"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> "BucketPolicy":
        own = cloudformation_json["Properties"]
        backend = s3_backends[account_id][get_partition(region_name)]
        backend.put_bucket_policy(own["Bucket"], json.dumps(own["PolicyDocument"]).encode())
        return cls(resource_name)


# Attributes of moto that are replaced while a rehearsal serves CloudFormation.
REPLACED: tuple[tuple[Any, str, Any], ...] = (
    (cloudformation_backends, "backend", Stacks),
    (parsing, "clean_json", _clean_json),
    (parsing.ResourceMap, "parse_ssm_parameter", _ssm_value),
    # moto leaves these resources behind when it deletes a stack.
    (NatGateway, _DELETE, _deletes(_delete_nat_gateway)),
    (RouteTable, _DELETE, _deletes(_delete_route_table)),
    (InternetGateway, _DELETE, _deletes(_delete_internet_gateway)),
    (ElasticAddress, _DELETE, _deletes(lambda ec2, name: ec2.release_address(address=name))),
)
