"""Instances of the rehearsal without machines: what EC2 says of them, and what is asked of the hosts."""

import base64
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.adapters.test_rehearsal_images import refused
from tests.support.rehearsal import DEBIAN, EAST, WEST, Clients, FakeHosts, Key


def state(aws: Clients, instance: str) -> str:
    answer = aws.ec2.describe_instances(InstanceIds=[instance])
    return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])


def test_a_life(aws: Clients, hosts: FakeHosts) -> None:
    instance = aws.run()["InstanceId"]
    aws.ec2.get_waiter("instance_running").wait(InstanceIds=[instance])
    address = hosts.launches[instance].address
    aws.ec2.reboot_instances(InstanceIds=[instance])
    aws.ec2.stop_instances(InstanceIds=[instance])
    aws.ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance])
    assert refused(aws.ec2.reboot_instances, InstanceIds=[instance]) == "IncorrectInstanceState"
    aws.ec2.start_instances(InstanceIds=[instance])
    aws.ec2.terminate_instances(InstanceIds=[instance])
    aws.ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance])
    aws.ec2.terminate_instances(InstanceIds=[instance])
    asked = [words[0] for words in hosts.asked]
    assert asked == ["launch", "reboot", "stop", "start", "remove"]
    assert address not in hosts.taken
    assert refused(aws.ec2.start_instances, InstanceIds=[instance]) == "IncorrectInstanceState"
    assert refused(aws.ec2.create_image, InstanceId=instance, Name="of-the-dead") == "IncorrectInstanceState"


@pytest.mark.parametrize("public", [True, False])
def test_every_address_is_on_this_machine(aws: Clients, public: bool) -> None:
    subnet = aws.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    card = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": public}
    instance = aws.run(NetworkInterfaces=[card])["InstanceId"]
    aws.ec2.stop_instances(InstanceIds=[instance])
    aws.ec2.start_instances(InstanceIds=[instance])
    found = aws.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert ("PublicIpAddress" in found) is public
    assert not found.get("PublicDnsName")
    cards = aws.ec2.describe_network_interfaces()["NetworkInterfaces"]
    said = json.dumps([found, cards], default=str)
    addresses = set(re.findall(r"\b\d{1,3}(?:[.-]\d{1,3}){3}\b", said))
    assert addresses
    assert [one for one in addresses if not one.startswith("127")] == []


def test_who_asks_while_an_instance_is_made_sees_no_other_address(aws: Clients, hosts: FakeHosts) -> None:
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            answer = aws("ec2", WEST).describe_instances()
            cards = aws("ec2", WEST).describe_network_interfaces()
            seen.update(re.findall(r"\d{1,3}(?:\.\d{1,3}){3}", json.dumps([answer, cards], default=str)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        made = [aws.run(region=WEST)["InstanceId"] for _ in range(8)]
    finally:
        ended.set()
        thread.join()
    aws("ec2", WEST).terminate_instances(InstanceIds=made)
    assert [one for one in seen if not one.startswith("127.")] == []


def test_a_request_that_is_repeated_starts_one_instance(aws: Clients, hosts: FakeHosts) -> None:
    first, second = (aws.run(ClientToken="run-1")["InstanceId"] for _ in range(2))
    assert first == second
    assert [words[0] for words in hosts.asked] == ["launch"]
    other = {"ClientToken": "run-1", "InstanceType": "m5.xlarge"}
    assert refused(aws.run, **other) == "IdempotentParameterMismatch"


def test_a_machine_that_does_not_start_leaves_nothing(aws: Clients, hosts: FakeHosts) -> None:
    hosts.failing = "launch"
    with pytest.raises(ClientError, match=r"InternalFailure.*launch failed for a test"):
        aws.run()
    hosts.failing = None
    (instance,) = [words[1] for words in hosts.asked if words[0] == "launch"]
    assert ("remove", instance) in hosts.asked
    assert state(aws, instance) == "terminated"
    assert hosts.launches[instance].address not in hosts.taken


def test_what_cannot_be_started(aws: Clients) -> None:
    ubuntu = "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id"
    image = aws("ssm").get_parameter(Name=ubuntu)["Parameter"]["Value"]
    assert refused(aws.run, image=image) == "Unsupported"
    assert refused(aws.run, InstanceType="m9.enormous") == "InvalidParameterValue"
    assert refused(aws.run, InstanceType="m6g.large") == "InvalidParameterValue", "another architecture"
    assert refused(aws.run, KeyName="nobody's") == "InvalidKeyPair.NotFound"
    assert refused(aws.run, UserData="#!/bin/sh\n" + "#" * 16384) == "InvalidParameterValue"


@pytest.mark.parametrize("user_data", ["#cloud-config\npackages: [vim]\n", "#cloud-boothook\n", "hello"])
def test_user_data_that_would_not_be_honoured_is_refused(
    aws: Clients, hosts: FakeHosts, user_data: str
) -> None:
    assert refused(aws.run, UserData=user_data) == "Unsupported"
    assert hosts.asked == []


def test_disks_are_the_images_with_the_requests_changes(aws: Clients) -> None:
    plain = aws.run()["InstanceId"]
    more = {"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 5, "DeleteOnTermination": False}}
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 80, "VolumeType": "gp3", "Throughput": 500}}
    changed = aws.run(BlockDeviceMappings=[root, more])["InstanceId"]

    def volumes(instance: str) -> dict[str, dict[str, Any]]:
        filters = [{"Name": "attachment.instance-id", "Values": [instance]}]
        found = aws.ec2.describe_volumes(Filters=filters)["Volumes"]
        return {one["Attachments"][0]["Device"]: one for one in found}

    before = volumes(plain) | volumes(changed)
    assert {device: one["Size"] for device, one in volumes(plain).items()} == {"/dev/xvda": 8}
    assert {device: one["Size"] for device, one in before.items()} == {"/dev/xvda": 80, "/dev/xvdb": 5}
    assert before["/dev/xvda"]["VolumeType"] == "gp3"
    aws.ec2.terminate_instances(InstanceIds=[plain, changed])
    left = [one["VolumeId"] for one in aws.ec2.describe_volumes()["Volumes"]]
    assert before["/dev/xvda"]["VolumeId"] not in left, "a root disk ends with its instance"
    assert before["/dev/xvdb"]["VolumeId"] in left


def test_the_key_and_the_user_data_reach_the_machine(aws: Clients, hosts: FakeHosts, private: Path) -> None:
    key = Key.create(private)
    aws.ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=key.public)
    try:
        instance = aws.run(KeyName="mine", UserData="#!/bin/sh\ntouch /done\n")["InstanceId"]
    finally:
        aws.ec2.delete_key_pair(KeyName="mine")
    launch = hosts.launches[instance]
    assert launch.public_key.strip() == key.public.decode().strip()
    assert base64.b64encode(b"#!/bin/sh\ntouch /done\n").decode() in launch.script
    paths = launch.metadata["paths"]["meta-data"]
    assert paths["public-keys"]["0"]["openssh-key"].strip() == launch.public_key.strip()
    assert paths["local-ipv4"] == launch.address


def test_the_metadata_service_follows_what_is_changed(aws: Clients, hosts: FakeHosts) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "before"}]}]
    options = {"HttpTokens": "required", "InstanceMetadataTags": "enabled"}
    instance = aws.run(MetadataOptions=options, TagSpecifications=tags)["InstanceId"]
    assert hosts.told[instance]["options"]["HttpTokens"] == "required"
    assert hosts.told[instance]["paths"]["meta-data"]["tags"]["instance"] == {"Name": "before"}
    aws.ec2.create_tags(Resources=[instance], Tags=[{"Key": "Name", "Value": "after"}])
    assert hosts.told[instance]["paths"]["meta-data"]["tags"]["instance"] == {"Name": "after"}
    aws.ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="optional")
    assert hosts.told[instance]["options"] == {"HttpTokens": "optional", "HttpEndpoint": "enabled"}
    answer = aws.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert answer["MetadataOptions"]["InstanceMetadataTags"] == "enabled", "what is left out stays"


def test_an_image_that_asks_for_tokens_makes_instances_ask(aws: Clients, hosts: FakeHosts) -> None:
    image = aws.image(aws.run()["InstanceId"])
    aws.ec2.modify_image_attribute(ImageId=image, Attribute="imdsSupport", Value="v2.0")
    options = aws.run(image)["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2)
    assert (
        aws.run(image, MetadataOptions={"HttpTokens": "optional"})["MetadataOptions"]["HttpTokens"]
        == "optional"
    )


def test_the_role_of_an_instance_has_credentials(aws: Clients, hosts: FakeHosts) -> None:
    iam = aws("iam")
    iam.create_role(RoleName="maker", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
    iam.create_instance_profile(InstanceProfileName="maker")
    iam.add_role_to_instance_profile(InstanceProfileName="maker", RoleName="maker")
    instance = aws.run(IamInstanceProfile={"Name": "maker"})["InstanceId"]
    credentials = hosts.told[instance]["paths"]["meta-data"]["iam"]["security-credentials"]
    assert json.loads(credentials["maker"])["Code"] == "Success"


def test_an_instance_by_the_name_of_a_parameter(aws: Clients) -> None:
    assert aws.run(f"resolve:ssm:{DEBIAN}")["ImageId"] == aws.debian()
    assert refused(aws.run, image="resolve:ssm:/no/such") == "InvalidParameterValue"


def test_regions_are_apart(aws: Clients) -> None:
    instance = aws.run(region=WEST)["InstanceId"]
    assert refused(aws.ec2.describe_instances, InstanceIds=[instance]) == "InvalidInstanceID.NotFound"
    found: dict[str, Any] = aws("ec2", WEST).describe_instances(InstanceIds=[instance])
    assert found["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"] == f"{WEST}a"
    assert aws("sts").get_caller_identity()["Account"] == "123456789012"
    assert EAST in [one["RegionName"] for one in aws.ec2.describe_regions()["Regions"]]
