"""List the authorizations that AWS requires for a call: an action on each resource, with condition keys.

The tables follow AWS's service authorization reference, for the calls that the builder and Packer make.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from builder.rehearsal.calls import READING, Call
from builder.rehearsal.iam import Request

Tags = Mapping[str, str]
# KMS actions of EC2 on the key of an encrypted volume, for which the caller needs permissions.
_KEY_USES = (
    *("CreateGrant", "Decrypt", "DescribeKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom"),
    "ReEncryptTo",
)
_ACCOUNT = "123456789012"
_TAG = re.compile(r"TagSpecification\.(\d+)\.Tag\.(\d+)\.Key")
_PLAIN_TAG = re.compile(r"Tag\.(\d+)\.Key")
# Resource types in ARNs by the prefix of the id.
_KINDS = {
    "ami": "image",
    "cr": "capacity-reservation",
    "i": "instance",
    "fleet": "fleet",
    "lt": "launch-template",
    "sg": "security-group",
    "snap": "snapshot",
    "subnet": "subnet",
    "vol": "volume",
    "vpc": "vpc",
}
_GLOBAL = ("image", "snapshot")  # their ARNs have no account
# Types of the resources that a call creates; they have no tags yet.
_CREATED: Mapping[str, tuple[str, ...]] = {
    "RunInstances": ("instance", "volume", "network-interface"),
    "CreateImage": ("image", "snapshot"),
    "CopyImage": ("image", "snapshot"),
    "CreateFleet": ("fleet",),
    "CreateLaunchTemplate": ("launch-template",),
    "ImportKeyPair": ("key-pair",),
    "CreateSecurityGroup": ("security-group",),
}
# Parameters that name the existing resources of a call.
_NAMED: Mapping[str, tuple[str, ...]] = {
    "RunInstances": (
        *("ImageId", "KeyName", "SecurityGroupId.", "SubnetId", "NetworkInterface."),
        "CapacityReservationSpecification.CapacityReservationTarget.",
    ),
    "CreateImage": ("InstanceId",),
    "CreateSecurityGroup": ("VpcId",),
    "CopyImage": ("SourceImageId",),
}
_ANY_NAMED = (
    *("ImageId", "InstanceId", "SnapshotId", "VolumeId", "GroupId", "KeyName"),
    *("ResourceId.", "InstanceId.", "GroupName", "FleetId.", "LaunchTemplateId"),
)


def requests_of(call: Call, tags_of: Callable[[str], Tags]) -> list[Request]:
    """Return the authorizations of a call; `tags_of` returns the tags of an existing resource by id."""
    action = f"{call.service}:{call.action}"
    if call.service == "ec2" and not call.action.startswith(READING):  # also for dry runs
        return list(_of_ec2(call, tags_of))
    if call.service == "ssm":
        return [
            Request(action=action, resource=arn, context=context) for arn, context in _of_ssm(call, tags_of)
        ]
    if call.service == "ram":
        return list(_of_ram(call, tags_of))
    if profile := call.parameters.get("InstanceProfileName"):
        return [Request(action=action, resource=f"arn:aws:iam::{_ACCOUNT}:instance-profile/{profile}")]
    return [Request(action=action)]


def _of_ec2(call: Call, tags_of: Callable[[str], Tags]) -> Iterator[Request]:
    action, specified = f"ec2:{call.action}", _specified(call)
    for kind in _CREATED.get(call.action, ()):
        new, tags = _arn(call, kind, "*"), specified.get(kind, {})
        yield Request(action=action, resource=new, context=_request_tags(tags))
        if tags:
            context = {**_request_tags(tags), "ec2:CreateAction": call.action}
            yield Request(action="ec2:CreateTags", resource=new, context=context)
    asked = {
        f"aws:RequestTag/{call.parameters[name]}": call.parameters[name.replace("Key", "Value")]
        for name in call.parameters
        if _PLAIN_TAG.fullmatch(name)
    }
    for name in _names(call):
        context = {**_resource_tags(tags_of(name)), **asked}
        yield Request(action=action, resource=_arn(call, _kind(name), name), context=context)
    if profile := call.parameters.get("IamInstanceProfile.Name"):
        yield Request(
            action="iam:PassRole",
            resource=f"arn:aws:iam::{_ACCOUNT}:role/{profile}",
            context={"iam:PassedToService": "ec2.amazonaws.com"},
        )
    yield from _of_key(call)
    yield from _of_fleet(call, tags_of)


def _of_fleet(call: Call, tags_of: Callable[[str], Tags]) -> Iterator[Request]:
    """Yield the authorizations that the caller needs for the actions of EC2 for a fleet.

    A CreateFleet request has only the name of its launch template, so the template's data are authorized
    when CreateLaunchTemplate creates the template.
    """
    template = _arn(call, "launch-template", "*")
    if call.action == "CreateLaunchTemplate":
        prefix = "LaunchTemplateData."
        data = {
            name.removeprefix(prefix): call.parameters[name] for name in call.parameters if prefix in name
        }
        yield from _of_ec2(replace(call, action="RunInstances", parameters=data), tags_of)
        yield Request(action="ec2:RunInstances", resource=template)
    if call.action == "CreateFleet":
        yield Request(action="ec2:CreateFleet", resource=template)
        for name in ("spot", "ec2fleet"):
            yield Request(
                action="iam:CreateServiceLinkedRole",
                resource=f"arn:aws:iam::{_ACCOUNT}:role/aws-service-role/{name}.amazonaws.com/AWSServiceRole",
                context={"iam:AWSServiceName": f"{name}.amazonaws.com"},
            )
    if call.action == "DeleteLaunchTemplate" and "LaunchTemplateName" in call.parameters:
        yield Request(action="ec2:DeleteLaunchTemplate", resource=template)


def _of_key(call: Call) -> Iterator[Request]:
    """Yield the authorizations on a KMS key for a call that encrypts a volume or a snapshot."""
    encrypts = any(name.endswith("Encrypted") and value == "true" for name, value in call.parameters.items())
    if encrypts:
        named = (value for name, value in call.parameters.items() if name.endswith("KmsKeyId"))
        key = next(named, "")
        arn = key if key.startswith("arn:") else f"arn:aws:kms:{call.region}:{_ACCOUNT}:key/of-alias"
        yield from (Request(action=f"kms:{action}", resource=arn) for action in _KEY_USES)


def _names(call: Call) -> list[str]:
    """Return the ids of a call's existing resources."""
    wanted = _NAMED.get(call.action) or (() if call.action in _CREATED else _ANY_NAMED)
    return [
        value
        for name, value in call.parameters.items()
        if value and _is_wanted(name, wanted) and (_kind(value) != "key-pair" or name.endswith("KeyName"))
    ]


def _is_wanted(name: str, wanted: tuple[str, ...]) -> bool:
    return any(name == key or (key.endswith(".") and name.startswith(key)) for key in wanted)


def _kind(name: str) -> str:
    prefix, _, rest = name.partition("-")
    is_id = re.fullmatch(r"[0-9a-f]{8,17}", rest) is not None
    return _KINDS.get(prefix, "key-pair") if is_id else "key-pair"


def _arn(call: Call, kind: str, name: str) -> str:
    account = "" if kind in _GLOBAL else _ACCOUNT
    return f"arn:aws:ec2:{call.region}:{account}:{kind}/{name}"


def _specified(call: Call) -> dict[str, dict[str, str]]:
    """Return the tags of a call's new resources, by type."""
    found: dict[str, dict[str, str]] = {}
    for name, key in call.parameters.items():
        if match := _TAG.fullmatch(name):
            kind = call.parameters[f"TagSpecification.{match[1]}.ResourceType"]
            found.setdefault(kind, {})[key] = call.parameters[name.removesuffix("Key") + "Value"]
    return found


def _request_tags(tags: Tags) -> dict[str, str]:
    return {f"aws:RequestTag/{name}": value for name, value in tags.items()}


def _resource_tags(tags: Tags) -> dict[str, str]:
    return {
        f"{service}:ResourceTag/{name}": value for service in ("aws", "ec2") for name, value in tags.items()
    }


def _of_ram(call: Call, tags_of: Callable[[str], Tags]) -> Iterator[Request]:
    """Yield the authorizations of a resource share, and of the policies that RAM puts on its parameters."""
    action = f"ram:{call.action}"
    share = call.parameters.get("resourceShareArn", "")
    if call.action == "CreateResourceShare":
        yield Request(action=action, context={"ram:RequestedResourceType": "ssm:Parameter"})
        asked = {tag["key"]: tag["value"] for tag in json.loads(call.parameters.get("tags", "[]"))}
        new = f"arn:aws:ram:{call.region}:{_ACCOUNT}:resource-share/*"
        if asked:
            yield Request(action="ram:TagResource", resource=new, context=_request_tags(asked))
    elif share:
        yield Request(action=action, resource=share, context=_resource_tags(tags_of(share)))
    else:
        yield Request(action=action)
        return
    for arn in json.loads(call.parameters.get("resourceArns", "[]")):
        yield from (
            Request(action=f"ssm:{policy}", resource=arn)
            for policy in ("GetResourcePolicies", "PutResourcePolicy")
        )


def _of_ssm(call: Call, tags_of: Callable[[str], Tags]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the resources of a Systems Manager call: parameters, or a session's instance and document."""
    if call.action == "StartSession":
        target, document = call.parameters["Target"], call.parameters["DocumentName"]
        tags = {f"ssm:resourceTag/{name}": value for name, value in tags_of(target).items()}
        yield f"arn:aws:ec2:{call.region}:{_ACCOUNT}:instance/{target}", tags
        yield f"arn:aws:ssm:{call.region}::document/{document}", {}
        return
    names = json.loads(call.parameters.get("Names", "[]"))
    for name in names or [call.parameters.get("Name") or call.parameters.get("Path", "")]:
        account = "" if name.startswith("/aws/") else _ACCOUNT  # public parameters belong to AWS
        yield f"arn:aws:ssm:{call.region}:{account}:parameter{name}", {}
