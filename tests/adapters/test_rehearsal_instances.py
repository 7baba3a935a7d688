"""The rehearsal's instances with fake hosts: the answers of EC2, and the requests to the hosts."""

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


def test_an_instance_is_started_rebooted_stopped_and_terminated(aws: Clients, hosts: FakeHosts) -> None:
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
    assert (
        refused(aws.ec2.create_image, InstanceId=instance, Name="of-terminated") == "IncorrectInstanceState"
    )


@pytest.mark.parametrize("public", [True, False])
def test_every_address_of_an_instance_is_loopback(aws: Clients, public: bool) -> None:
    subnet = aws.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    card = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": public}
    instance = aws.run(NetworkInterfaces=[card])["InstanceId"]
    aws.ec2.stop_instances(InstanceIds=[instance])
    aws.ec2.start_instances(InstanceIds=[instance])
    found = aws.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert ("PublicIpAddress" in found) is public
    assert not found.get("PublicDnsName")
    cards = aws.ec2.describe_network_interfaces()["NetworkInterfaces"]
    text = json.dumps([found, cards], default=str)
    addresses = set(re.findall(r"\b\d{1,3}(?:[.-]\d{1,3}){3}\b", text))
    assert addresses
    assert [address for address in addresses if not address.startswith("127")] == []


def test_addresses_are_loopback_even_while_an_instance_is_created(aws: Clients, hosts: FakeHosts) -> None:
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
        instances = [aws.run(region=WEST)["InstanceId"] for _ in range(8)]
    finally:
        ended.set()
        thread.join()
    aws("ec2", WEST).terminate_instances(InstanceIds=instances)
    assert [address for address in seen if not address.startswith("127.")] == []


def test_repeated_requests_with_a_client_token_start_a_single_instance(
    aws: Clients, hosts: FakeHosts
) -> None:
    first, second = (aws.run(ClientToken="run-1")["InstanceId"] for _ in range(2))
    assert first == second
    assert [words[0] for words in hosts.asked] == ["launch"]
    other = {"ClientToken": "run-1", "InstanceType": "m5.xlarge"}
    assert refused(aws.run, **other) == "IdempotentParameterMismatch"


def test_a_machine_that_fails_to_start_is_removed(aws: Clients, hosts: FakeHosts) -> None:
    hosts.failing = "launch"
    with pytest.raises(ClientError, match=r"InternalFailure.*launch failed for a test"):
        aws.run()
    hosts.failing = None
    (instance,) = [words[1] for words in hosts.asked if words[0] == "launch"]
    assert ("remove", instance) in hosts.asked
    assert aws.state(instance) == "terminated"
    assert hosts.launches[instance].address not in hosts.taken


def test_refuses_unknown_images_types_keys_and_oversized_user_data(aws: Clients) -> None:
    ubuntu = "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id"
    image = aws("ssm").get_parameter(Name=ubuntu)["Parameter"]["Value"]
    assert refused(aws.run, image=image) == "Unsupported"
    assert refused(aws.run, InstanceType="m9.enormous") == "InvalidParameterValue"
    assert refused(aws.run, InstanceType="m6g.large") == "InvalidParameterValue", "wrong architecture"
    assert refused(aws.run, KeyName="unknown") == "InvalidKeyPair.NotFound"
    assert refused(aws.run, UserData="#!/bin/sh\n" + "#" * 16384) == "InvalidParameterValue"


@pytest.mark.parametrize("user_data", ["#cloud-config\npackages: [vim]\n", "#cloud-boothook\n", "hello"])
def test_unsupported_user_data_is_refused(aws: Clients, hosts: FakeHosts, user_data: str) -> None:
    assert refused(aws.run, UserData=user_data) == "Unsupported"
    assert hosts.asked == []


def test_a_request_can_change_and_add_to_the_disks_of_the_image(aws: Clients) -> None:
    plain = aws.run()["InstanceId"]
    more = {"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 5, "DeleteOnTermination": False}}
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 80, "VolumeType": "gp3", "Throughput": 500}}
    changed = aws.run(BlockDeviceMappings=[root, more])["InstanceId"]

    def volumes(instance: str) -> dict[str, dict[str, Any]]:
        filters = [{"Name": "attachment.instance-id", "Values": [instance]}]
        found = aws.ec2.describe_volumes(Filters=filters)["Volumes"]
        return {volume["Attachments"][0]["Device"]: volume for volume in found}

    before = volumes(plain) | volumes(changed)
    assert {device: volume["Size"] for device, volume in volumes(plain).items()} == {"/dev/xvda": 8}
    sizes = {device: volume["Size"] for device, volume in before.items()}
    assert sizes == {"/dev/xvda": 80, "/dev/xvdb": 5}
    assert before["/dev/xvda"]["VolumeType"] == "gp3"
    aws.ec2.terminate_instances(InstanceIds=[plain, changed])
    left = [volume["VolumeId"] for volume in aws.ec2.describe_volumes()["Volumes"]]
    assert before["/dev/xvda"]["VolumeId"] not in left, "a root disk is deleted with its instance"
    assert before["/dev/xvdb"]["VolumeId"] in left


def test_a_machine_gets_ssh_key_and_user_data(aws: Clients, hosts: FakeHosts, private: Path) -> None:
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
    assert paths["public-ipv4"] == launch.address


def test_changed_tags_and_options_reach_the_metadata_service(aws: Clients, hosts: FakeHosts) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "before"}]}]
    options = {"HttpTokens": "required", "InstanceMetadataTags": "enabled"}
    instance = aws.run(MetadataOptions=options, TagSpecifications=tags)["InstanceId"]
    assert hosts.metadata[instance]["options"]["HttpTokens"] == "required"
    assert hosts.metadata[instance]["paths"]["meta-data"]["tags"]["instance"] == {"Name": "before"}
    aws.ec2.create_tags(Resources=[instance], Tags=[{"Key": "Name", "Value": "after"}])
    assert hosts.metadata[instance]["paths"]["meta-data"]["tags"]["instance"] == {"Name": "after"}
    aws.ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="optional")
    assert hosts.metadata[instance]["options"] == {"HttpTokens": "optional", "HttpEndpoint": "enabled"}
    answer = aws.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert answer["MetadataOptions"]["InstanceMetadataTags"] == "enabled", "omitted options are kept"


def test_instances_of_an_imds_v2_image_require_tokens(aws: Clients, hosts: FakeHosts) -> None:
    image = aws.image(aws.run()["InstanceId"])
    aws.ec2.modify_image_attribute(ImageId=image, Attribute="imdsSupport", Value="v2.0")
    options = aws.run(image)["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2)
    assert (
        aws.run(image, MetadataOptions={"HttpTokens": "optional"})["MetadataOptions"]["HttpTokens"]
        == "optional"
    )


def test_the_metadata_service_has_credentials_for_the_role_of_an_instance(
    aws: Clients, hosts: FakeHosts
) -> None:
    iam = aws("iam")
    iam.create_role(RoleName="maker", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
    iam.create_instance_profile(InstanceProfileName="maker")
    iam.add_role_to_instance_profile(InstanceProfileName="maker", RoleName="maker")
    instance = aws.run(IamInstanceProfile={"Name": "maker"})["InstanceId"]
    credentials = hosts.metadata[instance]["paths"]["meta-data"]["iam"]["security-credentials"]
    assert json.loads(credentials["maker"])["Code"] == "Success"


def test_run_instances_resolves_an_image_from_an_ssm_parameter(aws: Clients) -> None:
    assert aws.run(f"resolve:ssm:{DEBIAN}")["ImageId"] == aws.debian()
    assert refused(aws.run, image="resolve:ssm:/no/such") == "InvalidParameterValue"


def test_an_instance_exists_only_in_its_region(aws: Clients) -> None:
    instance = aws.run(region=WEST)["InstanceId"]
    assert refused(aws.ec2.describe_instances, InstanceIds=[instance]) == "InvalidInstanceID.NotFound"
    found: dict[str, Any] = aws("ec2", WEST).describe_instances(InstanceIds=[instance])
    assert found["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"] == f"{WEST}a"
    assert aws("sts").get_caller_identity()["Account"] == "123456789012"
    assert EAST in [region["RegionName"] for region in aws.ec2.describe_regions()["Regions"]]
