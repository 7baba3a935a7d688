"""Names, texts and tags that EC2 and Systems Manager refuse."""

from collections.abc import Mapping
from typing import Any

import pytest

from builder.rehearsal.ec2.limits import ec2_refusal, parameter_problem

GROUP = {"GroupName": "image-factory-run", "Description": "SSH of a build"}


def tagged(kind: str, *tags: tuple[str, str]) -> dict[str, Any]:
    return {
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags]}
        ]
    }


def ingress(**values: Any) -> dict[str, Any]:
    permission = {"FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    return {"IpPermissions": [{**permission, **values}]}


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("CreateSecurityGroup", GROUP | {"GroupName": "sg-run"}, "InvalidParameterValue"),
        ("CreateSecurityGroup", GROUP | {"GroupName": "g" * 256}, "InvalidParameterValue"),
        ("CreateSecurityGroup", GROUP | {"Description": "d" * 256}, "InvalidParameterValue"),
        ("CreateSecurityGroup", GROUP | {"Description": "SSH — build"}, "InvalidParameterValue"),
        ("CreateSecurityGroup", GROUP | {"Description": ""}, "InvalidParameterValue"),
        ("CreateSecurityGroup", GROUP | tagged("instance", ("a", "")), "InvalidParameterValue"),
        ("CreateSecurityGroup", GROUP | tagged("security-group", ("aws:a", "")), "InvalidParameterValue"),
        ("RunInstances", tagged("instance", ("k" * 129, "")), "InvalidParameterValue"),
        ("RunInstances", tagged("volume", ("k", "v" * 257)), "InvalidParameterValue"),
        ("RunInstances", tagged("volume", ("k", "1"), ("k", "2")), "InvalidParameterValue"),
        ("CreateTags", {"Tags": [{"Key": "AWS:a", "Value": ""}]}, "InvalidParameterValue"),
        ("CreateTags", {"Tags": [{"Key": "", "Value": ""}]}, "InvalidParameterValue"),
        ("CreateImage", {"Description": "d" * 256}, "InvalidParameterValue"),
        ("CopyImage", tagged("volume", ("a", "")), "InvalidParameterValue"),
        ("ImportKeyPair", {"KeyName": "k" * 256}, "InvalidParameterValue"),
        ("ImportKeyPair", {"KeyName": "clé"}, "InvalidParameterValue"),
        (
            "CreateLaunchTemplate",
            {"LaunchTemplateName": "ab"},
            "InvalidLaunchTemplateName.MalformedException",
        ),
        (
            "CreateLaunchTemplate",
            {"LaunchTemplateName": "a:b c"},
            "InvalidLaunchTemplateName.MalformedException",
        ),
        (
            "CreateLaunchTemplate",
            {"LaunchTemplateName": "l" * 129},
            "InvalidLaunchTemplateName.MalformedException",
        ),
        ("AuthorizeSecurityGroupIngress", ingress(ToPort=65536), "InvalidParameterValue"),
        (
            "AuthorizeSecurityGroupIngress",
            ingress(IpRanges=[{"CidrIp": "203.0.113.7/32", "Description": "a—b"}]),
            "InvalidParameterValue",
        ),
    ],
)
def test_ec2_refuses_a_request(action: str, parameters: Mapping[str, Any], code: str) -> None:
    refused = ec2_refusal(action, parameters)
    assert refused
    assert refused[0] == code


@pytest.mark.parametrize(
    ("action", "parameters"),
    [
        ("CreateSecurityGroup", GROUP | tagged("security-group", ("k" * 128, "v" * 256))),
        ("RunInstances", tagged("network-interface", ("factory:run", "a"), ("Name", "b"))),
        ("CreateLaunchTemplate", {"LaunchTemplateName": "image-factory/run-1"}),
        ("AuthorizeSecurityGroupIngress", ingress(Description="SSH")),
        ("DescribeInstances", {}),
    ],
)
def test_ec2_accepts_a_request_within_the_limits(action: str, parameters: Mapping[str, Any]) -> None:
    assert ec2_refusal(action, parameters) is None


@pytest.mark.parametrize(
    ("name", "value", "description", "words"),
    [
        ("/a b", "v", "", "must only use the characters"),
        ("a/b", "v", "", "fully qualified name"),
        ("/a" * 16, "v", "", "at most fifteen levels"),
        ("/" + "a" * 1011, "v", "", "maximum length of 1011"),
        ("/a", "v" * 4097, "", "4096 characters"),
        ("/a", "v", "d" * 1025, "1024"),
        ("/image-factory/ami-gpu/ubuntu-24.04/latest/image_id", "ami-0", "text", ""),
        ("plain", "v" * 4096, "", ""),
    ],
)
def test_systems_manager_refuses_a_parameter(name: str, value: str, description: str, words: str) -> None:
    problem = parameter_problem(name, value, description, ())
    assert words in problem
    assert bool(words) == bool(problem)


def test_systems_manager_refuses_tags_of_aws() -> None:
    assert "reserved" in parameter_problem("/a", "v", "", [{"Key": "aws:a", "Value": ""}])
