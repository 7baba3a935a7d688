"""What a build and a publication may do in an account: a table of calls, and the policy that follows from it.

Scoped as far as EC2 allows: reading calls know no resources; what is changed has to bear the tag of a run; a
new thing has to be tagged while it is made.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from builder.marks import RUN_TAG
from builder.model import Plan
from builder.site import AwsSettings

_ANY = ("*",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Calls that are allowed on the same resources under the same condition."""

    name: str
    actions: tuple[str, ...]
    resources: tuple[str, ...] = _ANY
    condition: Mapping[str, Mapping[str, Any]] | None = None
    when: str = "build"  # one of the names that `needs` returns


def _ec2(*kinds: str) -> tuple[str, ...]:
    return tuple(f"arn:{{partition}}:ec2:*:*:{kind}/*" for kind in kinds)


_IS_OURS = {"StringLike": {f"ec2:ResourceTag/{RUN_TAG}": "*"}}
_BECOMES_OURS = {"StringLike": {f"aws:RequestTag/{RUN_TAG}": "*"}}
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
            "ec2:DescribeInstanceStatus",
            "ec2:DescribeInstances",
            "ec2:DescribeInstanceTypeOfferings",
            "ec2:DescribeKeyPairs",
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
        name="Start",
        actions=("ec2:RunInstances",),
        resources=_ec2("instance", "volume"),
        condition=_BECOMES_OURS,
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
        name="Machines",
        actions=(
            "ec2:ModifyInstanceAttribute",
            "ec2:ModifyInstanceMetadataOptions",
            "ec2:StopInstances",
            "ec2:TerminateInstances",
            "ec2:DeleteVolume",
        ),
        resources=_ec2("instance", "volume"),
        condition=_IS_OURS,
    ),
    Grant(
        name="Keys",
        actions=("ec2:ImportKeyPair",),
        resources=_ec2("key-pair"),
        condition=_BECOMES_OURS,
    ),
    Grant(name="KeysEnd", actions=("ec2:DeleteKeyPair",), resources=_ec2("key-pair"), condition=_IS_OURS),
    # Packer 1.6.6 names an image when it makes it; it describes it next, and tags it last.
    Grant(
        name="Capture",
        actions=("ec2:CreateImage", "ec2:ModifyImageAttribute"),
        resources=(*_ec2("instance"), "arn:{partition}:ec2:*::image/*", "arn:{partition}:ec2:*::snapshot/*"),
    ),
    Grant(
        name="TagNew",
        actions=("ec2:CreateTags",),
        resources=(
            *_ec2("instance", "volume", "key-pair", "security-group"),
            "arn:{partition}:ec2:*::image/*",
            "arn:{partition}:ec2:*::snapshot/*",
        ),
        condition={"StringEquals": {"ec2:CreateAction": list(_CREATING)}},
    ),
    Grant(
        name="TagImages",
        actions=("ec2:CreateTags",),
        resources=(
            *_ec2("instance", "volume"),
            "arn:{partition}:ec2:*::image/*",
            "arn:{partition}:ec2:*::snapshot/*",
        ),
    ),
    Grant(
        name="RemoveImages",
        actions=(
            "ec2:DeregisterImage",
            "ec2:DeleteSnapshot",
            "ec2:DisableImageDeregistrationProtection",
        ),
        resources=("arn:{partition}:ec2:*::image/*", "arn:{partition}:ec2:*::snapshot/*"),
        condition=_IS_OURS,
    ),
    Grant(
        name="Group",
        actions=("ec2:CreateSecurityGroup",),
        resources=_ec2("security-group"),
        condition=_BECOMES_OURS,
        when="group",
    ),
    Grant(name="GroupSomewhere", actions=("ec2:CreateSecurityGroup",), resources=_ec2("vpc"), when="group"),
    Grant(
        name="GroupEnd",
        actions=("ec2:AuthorizeSecurityGroupIngress", "ec2:DeleteSecurityGroup"),
        resources=_ec2("security-group"),
        condition=_IS_OURS,
        when="group",
    ),
    Grant(
        name="ChangeImages",
        actions=(
            "ec2:EnableImageDeregistrationProtection",
            "ec2:ModifySnapshotAttribute",
        ),
        resources=("arn:{partition}:ec2:*::image/*", "arn:{partition}:ec2:*::snapshot/*"),
        condition=_IS_OURS,
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
    Grant(
        name="Deprecate",
        actions=("ec2:EnableImageDeprecation",),
        resources=("arn:{partition}:ec2:*::image/*",),
        condition=_IS_OURS,
        when="deprecate",
    ),
    Grant(
        name="Copy",
        actions=("ec2:CopyImage",),
        resources=("arn:{partition}:ec2:*::image/*", "arn:{partition}:ec2:*::snapshot/*"),
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
        condition={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        when="profile",
    ),
    Grant(name="Session", actions=("ssm:StartSession", "ssm:TerminateSession"), when="session"),
)


# Calls that change something, in the order in which they come first, and what needs them. Reading calls are
# not here, nor what clears up after a build that failed.
CALLS: tuple[tuple[str, str, str], ...] = (
    ("ec2", "ImportKeyPair", "build"),
    ("ec2", "CreateSecurityGroup", "group"),
    ("ec2", "AuthorizeSecurityGroupIngress", "group"),
    ("ec2", "RunInstances", "build"),
    ("ec2", "ModifyInstanceMetadataOptions", "build"),
    ("ec2", "StopInstances", "build"),
    ("ec2", "CreateImage", "build"),
    ("ec2", "ModifyImageAttribute", "build"),
    ("ec2", "CreateTags", "build"),
    ("ec2", "TerminateInstances", "build"),
    ("ec2", "DeleteSecurityGroup", "group"),
    ("ec2", "DeleteKeyPair", "build"),
    ("ec2", "ModifySnapshotAttribute", "share"),
    ("ec2", "EnableImageDeprecation", "deprecate"),
    ("ec2", "EnableImageDeregistrationProtection", "publish"),
    ("ec2", "CopyImage", "copy"),
    ("ssm", "PutParameter", "publish"),
)


def changing(wanted: Iterable[str]) -> list[tuple[str, str]]:
    """(service, call) of everything that changes an account when all goes well."""
    wanted = set(wanted)
    return [(service, action) for service, action, when in CALLS if when in wanted]


def needs(plan: Plan, settings: AwsSettings) -> set[str]:
    """What of the table a target needs at a site."""
    shape = plan.target.ami
    asked = {
        "group": not settings.security_group,
        "copy": bool(settings.copy_regions),
        "share": bool(settings.share_accounts),
        "deprecate": bool(settings.deprecate_after_days),
        "encrypt": bool(settings.encrypt and shape and shape.encryptable),
        "profile": bool(settings.instance_profile),
        "session": settings.ssh_interface == "session_manager",
    }
    return {"build", "publish", *(name for name, is_so in asked.items() if is_so)}


def policy(wanted: Iterable[str], settings: AwsSettings, *, partition: str = "aws") -> dict[str, Any]:
    """A policy document; the grants of the table that are wanted, in its order."""
    wanted = set(wanted)
    words = {
        "partition": partition,
        "parameters": settings.parameters,
        "profile": settings.instance_profile,
        "kms_keys": settings.kms_key if settings.kms_key.startswith("arn:") else "*",
    }
    return {
        "Version": "2012-10-17",
        "Statement": [_statement(grant, words) for grant in GRANTS if grant.when in wanted],
    }


def _statement(grant: Grant, words: Mapping[str, str]) -> dict[str, Any]:
    resources = [one.format_map(words) for one in grant.resources]
    statement = {
        "Sid": grant.name,
        "Effect": "Allow",
        "Action": list(grant.actions),
        "Resource": resources[0] if len(resources) == 1 else resources,
    }
    return {**statement, "Condition": grant.condition} if grant.condition else statement


def allows(document: Mapping[str, Any], service: str, action: str) -> bool:
    """Whether a policy names a call, on whatever resources."""
    return any(f"{service}:{action}" in statement["Action"] for statement in document["Statement"])
