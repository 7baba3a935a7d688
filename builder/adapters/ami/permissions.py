"""IAM permissions of builds and publications: a table of API calls and the policy generated from it.

The policy is scoped as far as EC2 allows: read-only calls cannot be scoped to resources, changed resources
must have the tag of a run, and new resources must be tagged on creation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from builder.marks import BUILDER_TAG, RUN_TAG
from builder.model import Plan
from builder.site import AwsSettings, CheckSettings

_ANY = ("*",)
_NO_CHECKS = CheckSettings()
DOCTOR = "doctor"  # feature: `builder doctor` reads facts of the account that no build needs
OLD_SPOT = "old spot"  # feature: spot instances of Packer 1.6
OLD_PACKER = "old packer"  # feature: Packer 1.6 does not tag images or require tokens in its requests


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """API calls that are allowed on the same resources under the same condition."""

    name: str
    actions: tuple[str, ...]
    resources: tuple[str, ...] = _ANY
    condition: Mapping[str, Mapping[str, Any]] | None = None
    when: str = "build"  # one of the names that `needs` returns


def _ec2(*kinds: str) -> tuple[str, ...]:
    return tuple(f"arn:{{partition}}:ec2:*:*:{kind}/*" for kind in kinds)


_IMAGES = ("arn:{partition}:ec2:*::image/*", "arn:{partition}:ec2:*::snapshot/*")
_SHARES = ("arn:{partition}:ram:*:*:resource-share/*",)
_HAS_RUN_TAG = {"StringLike": {f"ec2:ResourceTag/{RUN_TAG}": "*"}}
_GETS_RUN_TAG = {"StringLike": {f"aws:RequestTag/{RUN_TAG}": "*"}}
_CREATING = (
    *("RunInstances", "CreateImage", "CopyImage", "ImportKeyPair", "CreateVolume", "CreateSnapshot"),
    "CreateSecurityGroup",
)

GRANTS: tuple[Grant, ...] = (
    Grant(
        name="Read",
        actions=(
            "ec2:DescribeImageAttribute",
            "ec2:DescribeImages",
            "ec2:DescribeFleets",
            "ec2:DescribeInstances",
            "ec2:DescribeInstanceTypeOfferings",
            "ec2:DescribeKeyPairs",
            "ec2:DescribeLaunchTemplateVersions",
            "ec2:DescribeRegions",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSnapshotAttribute",
            "ec2:DescribeSnapshots",
            "ec2:DescribeSubnets",
            "ec2:DescribeTags",
            "ec2:DescribeVolumes",
            "ec2:DescribeVpcs",
            "sts:GetCallerIdentity",
        ),
    ),
    Grant(
        name="Doctor",
        actions=(
            "ec2:DescribeInstanceTypes",
            "ec2:DescribeRouteTables",
            "ec2:GetEbsDefaultKmsKeyId",
            "ec2:GetEbsEncryptionByDefault",
            "ec2:GetInstanceMetadataDefaults",
            "iam:GetRole",
            "iam:SimulatePrincipalPolicy",
            "servicequotas:GetServiceQuota",
        ),
        when=DOCTOR,
    ),
    # `builder lock` reads source AMIs from SSM parameters that AWS owns: their ARNs have no account id.
    Grant(
        name="PublicParameters",
        actions=("ssm:GetParameter",),
        resources=("arn:{partition}:ssm:*::parameter/aws/service/*",),
    ),
    Grant(
        name="Start",
        actions=("ec2:RunInstances",),
        resources=_ec2("instance", "volume"),
        condition=_GETS_RUN_TAG,
    ),
    Grant(
        name="StartFrom",
        actions=("ec2:RunInstances",),
        resources=(
            *_ec2("key-pair", "network-interface", "security-group", "subnet"),
            "arn:{partition}:ec2:*::image/*",
            "arn:{partition}:ec2:*::snapshot/*",
        ),
    ),
    Grant(
        name="StartIn",
        actions=("ec2:RunInstances",),
        resources=_ec2("capacity-reservation"),
        when="reservation",
    ),
    Grant(
        name="ReservationRead",
        actions=("ec2:DescribeCapacityReservations",),
        when="check reservation",
    ),
    # The two instances of an NCCL check communicate over EFA.
    Grant(
        name="GroupWithin",
        actions=("ec2:AuthorizeSecurityGroupEgress",),
        resources=_ec2("security-group"),
        condition=_HAS_RUN_TAG,
        when="hardware",
    ),
    # Packer does not tag its launch template. A fleet starts its instance with the permissions of the caller.
    Grant(
        name="SpotTemplate",
        actions=("ec2:CreateLaunchTemplate", "ec2:DeleteLaunchTemplate"),
        resources=_ec2("launch-template"),
        when="spot",
    ),
    Grant(
        name="SpotFleet",
        actions=("ec2:CreateFleet",),
        resources=_ec2("fleet"),
        condition=_GETS_RUN_TAG,
        when="spot",
    ),
    Grant(
        name="SpotFrom",
        actions=("ec2:CreateFleet", "ec2:RunInstances"),
        resources=_ec2("launch-template"),
        when="spot",
    ),
    Grant(
        name="SpotTag",
        actions=("ec2:CreateTags",),
        resources=_ec2("fleet"),
        condition={"StringEquals": {"ec2:CreateAction": "CreateFleet"}},
        when="spot",
    ),
    Grant(
        name="SpotEnd",
        actions=("ec2:DeleteFleets",),
        resources=_ec2("fleet"),
        condition=_HAS_RUN_TAG,
        when="spot",
    ),
    Grant(
        name="SpotRoles",  # the first spot request of an account creates them
        actions=("iam:CreateServiceLinkedRole",),
        resources=("arn:{partition}:iam::*:role/aws-service-role/*",),
        condition={"StringEquals": {"iam:AWSServiceName": ["spot.amazonaws.com", "ec2fleet.amazonaws.com"]}},
        when="spot",
    ),
    # The requests of Packer 1.6 tag neither the fleet nor the instance nor its volume.
    Grant(
        name="SpotUntagged",
        actions=("ec2:CreateFleet", "ec2:CreateTags", "ec2:RunInstances", "ec2:TerminateInstances"),
        resources=_ec2("fleet", "instance", "volume"),
        when=OLD_SPOT,
    ),
    Grant(
        name="Machines",
        actions=(
            "ec2:StopInstances",
            "ec2:TerminateInstances",
            "ec2:DeleteVolume",
        ),
        resources=_ec2("instance", "volume"),
        condition=_HAS_RUN_TAG,
    ),
    Grant(
        name="Keys",
        actions=("ec2:ImportKeyPair",),
        resources=_ec2("key-pair"),
        condition=_GETS_RUN_TAG,
    ),
    Grant(name="KeysEnd", actions=("ec2:DeleteKeyPair",), resources=_ec2("key-pair"), condition=_HAS_RUN_TAG),
    Grant(
        name="CaptureFrom",
        actions=("ec2:CreateImage",),
        resources=_ec2("instance"),
        condition=_HAS_RUN_TAG,
    ),
    Grant(name="Capture", actions=("ec2:CreateImage",), resources=_IMAGES, condition=_GETS_RUN_TAG),
    Grant(
        name="ModifyImages",
        actions=("ec2:ModifyImageAttribute",),
        resources=_IMAGES[:1],
        condition=_HAS_RUN_TAG,
    ),
    Grant(
        name="TagNew",
        actions=("ec2:CreateTags",),
        resources=(
            *_ec2("instance", "volume", "network-interface", "key-pair", "security-group"),
            *_IMAGES,
        ),
        condition={"StringEquals": {"ec2:CreateAction": list(_CREATING)}},
    ),
    Grant(
        name="TagOwn",
        actions=("ec2:CreateTags",),
        resources=(*_ec2("instance", "volume"), *_IMAGES),
        condition=_HAS_RUN_TAG,
    ),
    Grant(
        name="RequireTokens",
        actions=("ec2:ModifyInstanceMetadataOptions",),
        resources=_ec2("instance"),
        condition=_HAS_RUN_TAG,
        when=OLD_PACKER,
    ),
    # Packer 1.6 creates an image without tags, sets its description, and only then tags it.
    Grant(
        name="UntaggedImages",
        actions=("ec2:CreateImage", "ec2:CreateTags", "ec2:ModifyImageAttribute"),
        resources=_IMAGES,
        when=OLD_PACKER,
    ),
    Grant(
        name="RemoveImages",
        actions=(
            "ec2:DeregisterImage",
            "ec2:DeleteSnapshot",
            "ec2:DisableImageDeregistrationProtection",
        ),
        resources=_IMAGES,
        condition=_HAS_RUN_TAG,
    ),
    Grant(
        name="Group",
        actions=("ec2:CreateSecurityGroup",),
        resources=_ec2("security-group"),
        condition=_GETS_RUN_TAG,
        when="group",
    ),
    Grant(name="GroupSomewhere", actions=("ec2:CreateSecurityGroup",), resources=_ec2("vpc"), when="group"),
    Grant(
        name="GroupEnd",
        actions=("ec2:AuthorizeSecurityGroupIngress", "ec2:DeleteSecurityGroup"),
        resources=_ec2("security-group"),
        condition=_HAS_RUN_TAG,
        when="group",
    ),
    Grant(
        name="ChangeImages",
        actions=(
            "ec2:EnableImageDeregistrationProtection",
            "ec2:ModifySnapshotAttribute",
        ),
        resources=_IMAGES,
        condition=_HAS_RUN_TAG,
        when="publish",
    ),
    Grant(
        name="Parameters",
        actions=("ssm:DeleteParameters", "ssm:GetParameters", "ssm:GetParametersByPath", "ssm:PutParameter"),
        resources=(
            "arn:{partition}:ssm:*:*:parameter{parameters}",
            "arn:{partition}:ssm:*:*:parameter{parameters}/*",
        ),
        when="publish",
    ),
    # AWS RAM sets a resource policy on each SSM parameter, with the permissions of the caller.
    Grant(
        name="ParameterPolicies",
        actions=("ssm:GetResourcePolicies", "ssm:PutResourcePolicy"),
        resources=("arn:{partition}:ssm:*:*:parameter{parameters}/*",),
        when="share parameters",
    ),
    Grant(
        name="SharesRead",
        actions=("ram:GetResourceShareAssociations", "ram:GetResourceShares"),
        when="share parameters",
    ),
    Grant(
        name="ShareNew",
        actions=("ram:CreateResourceShare",),
        condition={"StringEquals": {"ram:RequestedResourceType": "ssm:Parameter"}},
        when="share parameters",
    ),
    Grant(
        name="ShareTag",
        actions=("ram:TagResource",),
        resources=_SHARES,
        condition={"StringLike": {f"aws:RequestTag/{BUILDER_TAG}": "*"}},
        when="share parameters",
    ),
    Grant(
        name="ShareMore",
        actions=("ram:AssociateResourceShare", "ram:DeleteResourceShare"),
        resources=_SHARES,
        condition={"StringLike": {f"aws:ResourceTag/{BUILDER_TAG}": "*"}},
        when="share parameters",
    ),
    Grant(
        name="Deprecate",
        actions=("ec2:EnableImageDeprecation",),
        resources=("arn:{partition}:ec2:*::image/*",),
        condition=_HAS_RUN_TAG,
        when="deprecate",
    ),
    Grant(
        name="Copy",
        actions=("ec2:CopyImage",),
        resources=_IMAGES,
        when="copy",
    ),
    Grant(
        name="Encrypt",
        actions=(
            "kms:CreateGrant",
            "kms:Decrypt",
            "kms:DescribeKey",
            "kms:GenerateDataKeyWithoutPlaintext",
            "kms:ReEncryptFrom",
            "kms:ReEncryptTo",
        ),
        resources=("{kms_keys}",),
        when="encrypt",
    ),
    Grant(
        name="Profile",
        actions=("iam:GetInstanceProfile",),
        resources=("arn:{partition}:iam::*:instance-profile/{profile}",),
        when="profile",
    ),
    Grant(
        name="PassRole",
        actions=("iam:PassRole",),
        resources=("arn:{partition}:iam::*:role/{role}",),
        condition={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        when="profile",
    ),
    Grant(name="SessionRead", actions=("ec2:DescribeInstanceStatus",), when="session"),
    Grant(
        name="Session",
        actions=("ssm:StartSession",),
        resources=_ec2("instance"),
        condition={"StringLike": {f"ssm:resourceTag/{RUN_TAG}": "*"}},
        when="session",
    ),
    Grant(
        name="SessionForward",
        actions=("ssm:StartSession",),
        resources=tuple(
            f"arn:{{partition}}:ssm:*::document/{name}"
            for name in ("AWS-StartPortForwardingSession", "AWS-StartSSHSession")  # of Packer, of the checks
        ),
        when="session",
    ),
    Grant(
        name="SessionEnd",
        actions=("ssm:TerminateSession",),
        resources=("arn:{partition}:ssm:*:*:session/${{aws:userid}}-*",),
        when="session",
    ),
)


# API calls that change the account, in order of first use, each with the feature that requires it. Read-only
# calls and those that clean up after a failed build are left out.
CALLS: tuple[tuple[str, str, str], ...] = (
    ("ec2", "ImportKeyPair", "build"),
    ("ec2", "CreateSecurityGroup", "group"),
    ("ec2", "AuthorizeSecurityGroupIngress", "group"),
    ("ec2", "CreateLaunchTemplate", "spot"),
    ("ec2", "CreateFleet", "spot"),
    ("ec2", "RunInstances", "build"),
    ("ec2", "ModifyInstanceMetadataOptions", "build"),
    ("ec2", "StopInstances", "build"),
    ("ec2", "CreateImage", "build"),
    ("ec2", "ModifyImageAttribute", "build"),
    ("ec2", "CreateTags", "build"),
    ("ec2", "TerminateInstances", "build"),
    ("ec2", "DeleteLaunchTemplate", "spot"),
    ("ec2", "DeleteFleets", "spot"),
    ("ec2", "DeleteSecurityGroup", "group"),
    ("ec2", "DeleteKeyPair", "build"),
    ("ec2", "ModifySnapshotAttribute", "share"),
    ("ec2", "EnableImageDeprecation", "deprecate"),
    ("ec2", "EnableImageDeregistrationProtection", "publish"),
    ("ec2", "CopyImage", "copy"),
    ("ssm", "PutParameter", "publish"),
    ("ram", "CreateResourceShare", "share parameters"),
)


def changing(wanted: Iterable[str]) -> list[tuple[str, str]]:
    """Return the API calls that change the account in a successful build or publication: (service, call)."""
    wanted = set(wanted)
    return [(service, action) for service, action, when in CALLS if when in wanted]


def needs(plan: Plan, settings: AwsSettings, checks: CheckSettings = _NO_CHECKS) -> set[str]:
    """Return the features that a target uses at a site, named as in GRANTS and CALLS."""
    shape = plan.target.ami
    return features(settings, checks, encryptable=bool(shape and shape.encryptable))


def features(settings: AwsSettings, checks: CheckSettings = _NO_CHECKS, *, encryptable: bool) -> set[str]:
    """Return the features that a site's settings need; `encryptable`: a target's AMI can be encrypted."""
    of_checks = (checks.capacity or settings.capacity) if checks.instance else ""
    optional = {
        "group": not settings.security_group,
        "copy": bool(settings.copy_regions),
        "share": bool(settings.share_accounts),
        "share parameters": settings.share_parameters
        and bool(settings.share_accounts or settings.share_organizations),
        "deprecate": bool(settings.deprecate_after_days),
        "spot": settings.spot,
        "encrypt": settings.encrypt and encryptable,
        "profile": bool(settings.instance_profile),
        "reservation": settings.capacity.startswith("cr-") or of_checks.startswith("cr-"),
        "check reservation": of_checks.startswith("cr-"),
        "hardware": bool(checks.instance) and not settings.security_group,
        "session": settings.ssh_interface == "session_manager",
    }
    return {"build", "publish", *(name for name, is_needed in optional.items() if is_needed)}


def policy(wanted: Iterable[str], settings: AwsSettings, *, partition: str = "aws") -> dict[str, Any]:
    """Return a policy document with the grants for these features, in the order of GRANTS."""
    wanted = set(wanted)
    words = {
        "partition": partition,
        "parameters": settings.parameters,
        "profile": settings.instance_profile,
        "role": settings.instance_role or settings.instance_profile,
        "kms_keys": settings.kms_key if settings.kms_key.startswith("arn:") else "*",
    }
    return {
        "Version": "2012-10-17",
        "Statement": [_statement(grant, words) for grant in GRANTS if grant.when in wanted],
    }


def _statement(grant: Grant, words: Mapping[str, str]) -> dict[str, Any]:
    resources = [resource.format_map(words) for resource in grant.resources]
    statement = {
        "Sid": grant.name,
        "Effect": "Allow",
        "Action": list(grant.actions),
        "Resource": resources[0] if len(resources) == 1 else resources,
    }
    return {**statement, "Condition": grant.condition} if grant.condition else statement


def allows(document: Mapping[str, Any], service: str, action: str) -> bool:
    """True if a policy allows a call on at least one resource."""
    return any(f"{service}:{action}" in statement["Action"] for statement in document["Statement"])
