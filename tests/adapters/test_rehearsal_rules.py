"""The rehearsed EC2 refuses what EC2 refuses: states, tokens, routes, delays, regions, IAM policies."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from builder.rehearsal.proxy import Proxy
from builder.rehearsal.rules import Rules
from builder.wait import until
from tests.adapters.test_rehearsal_images import refused
from tests.support.rehearsal import EAST, WEST, Clients, FakeHosts

LAUNCH: dict[str, Any] = {"InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1}
TAGS = [{"ResourceType": "instance", "Tags": [{"Key": "factory:run", "Value": "x"}]}]
SetRules = Callable[[Rules], None]


@pytest.fixture
def set_rules(aws: Clients, monkeypatch: pytest.MonkeyPatch) -> SetRules:
    from builder.rehearsal.ec2.cloud import Cloud

    return lambda rules: monkeypatch.setattr(Cloud, "rules", rules)


def start(aws: Clients, **more: Any) -> dict[str, Any]:
    """Start an instance; return EC2's answer at once, while the instance is pending."""
    found: dict[str, Any] = aws.ec2.run_instances(ImageId=aws.debian(), **LAUNCH, **more)["Instances"][0]
    return found


def test_a_pending_instance_cannot_be_changed_stopped_or_captured(aws: Clients) -> None:
    instance = start(aws)["InstanceId"]
    calls = [
        (aws.ec2.modify_instance_metadata_options, {"InstanceId": instance, "HttpTokens": "required"}),
        (aws.ec2.stop_instances, {"InstanceIds": [instance]}),
        (aws.ec2.reboot_instances, {"InstanceIds": [instance]}),
        (aws.ec2.create_image, {"InstanceId": instance, "Name": "of-pending"}),
    ]
    for call, request in calls:
        assert refused(call, **request) == "IncorrectInstanceState"
    assert [aws.state(instance) for _ in range(3)] == ["pending", "running", "running"]
    aws.ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="required")
    missing = {"InstanceId": "i-0123456789abcdef0", "HttpTokens": "required"}
    assert refused(aws.ec2.modify_instance_metadata_options, **missing) == "InvalidInstanceID.NotFound"


def test_account_that_enforces_imdsv2_refuses_imdsv1_launches(aws: Clients, set_rules: SetRules) -> None:
    set_rules(Rules(enforces_tokens=True))
    assert refused(start, aws=aws) == "UnsupportedOperation"
    optional = {"HttpTokens": "optional"}
    assert refused(start, aws=aws, MetadataOptions=optional) == "UnsupportedOperation"
    assert start(aws, MetadataOptions={"HttpTokens": "required"})["InstanceId"]
    defaults = aws.ec2.get_instance_metadata_defaults()["AccountLevel"]
    assert defaults["HttpTokensEnforced"] == "enabled"


def test_only_the_public_address_is_reachable_from_outside_the_vpc(aws: Clients, hosts: FakeHosts) -> None:
    found = start(aws)
    assert hosts.launches[found["InstanceId"]].address == found["PublicIpAddress"]
    assert found["PrivateIpAddress"] != found["PublicIpAddress"]
    hidden = start(aws, NetworkInterfaces=[{"DeviceIndex": 0, "AssociatePublicIpAddress": False}])
    assert hosts.launches[hidden["InstanceId"]].address == ""
    assert "PublicIpAddress" not in hidden
    aws.ec2.terminate_instances(InstanceIds=[found["InstanceId"], hidden["InstanceId"]])
    assert not {found["PublicIpAddress"], found["PrivateIpAddress"], hidden["PrivateIpAddress"]} & hosts.taken


def test_a_public_address_needs_a_route_to_the_internet(aws: Clients, hosts: FakeHosts) -> None:
    network = aws.ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = aws.ec2.create_subnet(VpcId=network, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
    card = {"DeviceIndex": 0, "AssociatePublicIpAddress": True, "SubnetId": subnet}
    lost = start(aws, NetworkInterfaces=[card])
    assert "PublicIpAddress" in lost
    assert hosts.launches[lost["InstanceId"]].address == ""
    gateway = aws.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    aws.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=network)
    table = aws.ec2.create_route_table(VpcId=network)["RouteTable"]["RouteTableId"]
    aws.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    aws.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    found = start(aws, NetworkInterfaces=[card])
    assert hosts.launches[found["InstanceId"]].address == found["PublicIpAddress"]


def test_an_instance_without_public_address_reaches_the_internet_through_nat(
    aws: Clients, hosts: FakeHosts
) -> None:
    network = aws.ec2.create_vpc(CidrBlock="10.2.0.0/16")["Vpc"]["VpcId"]
    subnet = aws.ec2.create_subnet(VpcId=network, CidrBlock="10.2.0.0/24")["Subnet"]["SubnetId"]
    card = {"DeviceIndex": 0, "AssociatePublicIpAddress": False, "SubnetId": subnet}
    closed = start(aws, NetworkInterfaces=[card])
    assert not hosts.launches[closed["InstanceId"]].reaches_internet
    gateway = aws.ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="public")["NatGateway"]
    table = aws.ec2.create_route_table(VpcId=network)["RouteTable"]["RouteTableId"]
    aws.ec2.create_route(
        RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway["NatGatewayId"]
    )
    aws.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    found = start(aws, NetworkInterfaces=[card])
    launch = hosts.launches[found["InstanceId"]]
    assert (launch.address, launch.reaches_internet) == ("", True)
    public = start(aws, NetworkInterfaces=[{**card, "AssociatePublicIpAddress": True}])
    assert hosts.launches[public["InstanceId"]].address == ""


def test_a_session_manager_session_needs_an_instance_profile_and_a_route_to_aws(aws: Clients) -> None:
    def session(instance: dict[str, Any], document: str = "AWS-StartSSHSession") -> dict[str, Any]:
        return dict(aws("ssm").start_session(Target=instance["InstanceId"], DocumentName=document))

    aws("iam").create_instance_profile(InstanceProfileName="sessions")
    profile = {"IamInstanceProfile": {"Name": "sessions"}}
    hidden = {"NetworkInterfaces": [{"DeviceIndex": 0, "AssociatePublicIpAddress": False}]}
    assert refused(session, instance=aws.run()) == "TargetNotConnected"
    assert refused(session, instance=aws.run(**profile, **hidden)) == "TargetNotConnected"
    found = aws.run(**profile)
    assert refused(session, instance=found, document="none") == "InvalidDocument"
    started = session(found)
    (group,) = aws.ec2.describe_instances(InstanceIds=[found["InstanceId"]])["Reservations"]
    address = group["Instances"][0]["PublicIpAddress"]
    assert started["StreamUrl"] == f"ws://{address}/v1/data-channel/{started['SessionId']}"
    assert aws("ssm").terminate_session(SessionId=started["SessionId"])
    aws.ec2.terminate_instances(InstanceIds=[found["InstanceId"]])
    assert refused(session, instance=found) == "TargetNotConnected"


def test_the_private_address_is_reachable_from_inside_the_vpc(
    aws: Clients, hosts: FakeHosts, set_rules: SetRules
) -> None:
    set_rules(Rules(is_inside=True))
    found = start(aws, NetworkInterfaces=[{"DeviceIndex": 0, "AssociatePublicIpAddress": False}])
    assert hosts.launches[found["InstanceId"]].address == found["PrivateIpAddress"]


def test_new_instances_and_images_are_not_found_at_first(aws: Clients, set_rules: SetRules) -> None:
    source = aws.run()["InstanceId"]
    set_rules(Rules(unlisted_s=1.0))
    instance = start(aws)["InstanceId"]
    image = aws.image(source)
    assert refused(aws.state, instance=instance) == "InvalidInstanceID.NotFound"
    assert refused(aws.describe, image=image) == "InvalidAMIID.NotFound"
    assert refused(aws.ec2.terminate_instances, InstanceIds=[instance]) == "InvalidInstanceID.NotFound"
    assert refused(aws.ec2.deregister_image, ImageId=image) == "InvalidAMIID.NotFound"
    assert image not in [each["ImageId"] for each in aws.ec2.describe_images(Owners=["self"])["Images"]]

    def are_listed() -> bool:
        images = aws.ec2.describe_images(Owners=["self"])["Images"]
        reservations = aws.ec2.describe_instances()["Reservations"]
        found = {each["InstanceId"] for reservation in reservations for each in reservation["Instances"]}
        return instance in found and image in [each["ImageId"] for each in images]

    assert until(are_listed, timeout_s=30, every_s=0.1)
    assert aws.describe(image)["ImageId"] == image


def test_a_denied_region_refuses_all_calls(proxy: Proxy, set_rules: SetRules) -> None:
    set_rules(Rules(denied_regions=(WEST,)))
    aws = Clients(proxy.endpoint)
    assert refused(aws("ec2", WEST).describe_images, Owners=["self"]) == "UnauthorizedOperation"
    assert refused(aws("ssm", WEST).get_parameter, Name="/x") == "AccessDeniedException"
    assert aws("sts", WEST).get_caller_identity()["Account"]
    assert aws("ec2", EAST).describe_images(Owners=["self"])
    assert proxy.calls[0].error == "UnauthorizedOperation"


def test_the_callers_policy_decides_by_tags_of_request_and_resource(
    aws: Clients, proxy: Proxy, set_rules: SetRules
) -> None:
    own = {"StringLike": {"ec2:ResourceTag/factory:run": "*"}}
    new = {"StringLike": {"aws:RequestTag/factory:run": "*"}}
    everything = {"Effect": "Allow", "Resource": "*"}
    statements = [
        {**everything, "Action": ["ec2:Describe*", "ec2:CreateTags", "ssm:GetParameter"]},
        {**everything, "Action": "ec2:TerminateInstances", "Condition": own},
        {**everything, "Action": "ec2:RunInstances", "Condition": new},
        {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:*::image/*"},
    ]
    foreign = aws.run()["InstanceId"]
    set_rules(Rules(policy={"Version": "2012-10-17", "Statement": statements}))
    caller = Clients(proxy.endpoint)
    assert refused(start, aws=caller) == "UnauthorizedOperation"
    kinds = [{**TAGS[0], "ResourceType": kind} for kind in ("instance", "volume", "network-interface")]
    with pytest.raises(ClientError, match=r"UnauthorizedOperation.*ec2:RunInstances on resource: .*:volume/"):
        start(caller, DryRun=True, TagSpecifications=kinds[:1])
    instance = start(caller, TagSpecifications=kinds)["InstanceId"]
    assert refused(caller.ec2.terminate_instances, InstanceIds=[foreign]) == "UnauthorizedOperation"
    caller.ec2.terminate_instances(InstanceIds=[instance])
    assert refused(caller.ec2.stop_instances, InstanceIds=[instance]) == "UnauthorizedOperation"


def test_names_texts_and_tags_beyond_the_limits_of_aws_are_refused(aws: Clients) -> None:
    """test_rehearsal_limits has all limits; this test sends one request of each kind."""
    network = aws.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = {"GroupName": "limits", "Description": "d" * 256, "VpcId": network}
    assert refused(aws.ec2.create_security_group, **group) == "InvalidParameterValue"
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "aws:run", "Value": "x"}]}]
    launch = {"ImageId": aws.debian(), **LAUNCH, "TagSpecifications": tags}
    assert refused(aws.ec2.run_instances, **launch) == "InvalidParameterValue"
    parameter = {"Name": "/a" * 16, "Value": "x", "Type": "String"}
    assert refused(aws("ssm").put_parameter, **parameter) == "ValidationException"
