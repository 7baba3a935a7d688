"""The rehearsal's AMIs behave like EC2's, also where moto differs from EC2."""

import datetime
import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError

from builder.rehearsal.rules import Rules
from builder.wait import until
from tests.support.rehearsal import EAST, WEST, Clients, FakeHosts


def refused(act: Any, **request: Any) -> str:
    """Return the error code of a refused request."""
    with pytest.raises(ClientError) as caught:
        act(**request)
    return str(caught.value.response["Error"]["Code"])


def tags_of(found: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}


@pytest.fixture
def instance(aws: Clients) -> str:
    return str(aws.run()["InstanceId"])


def test_describe_images_finds_base_images_by_usual_filters(aws: Clients) -> None:
    filters = [
        {"Name": "name", "Values": ["debian-12-amd64-*"]},
        {"Name": "root-device-type", "Values": ["ebs"]},
        {"Name": "virtualization-type", "Values": ["hvm"]},
        {"Name": "architecture", "Values": ["x86_64"]},
        {"Name": "state", "Values": ["available"]},
    ]
    (found,) = aws.ec2.describe_images(Owners=["136693071363"], Filters=filters)["Images"]
    assert found["ImageId"] == aws.debian()
    assert (found["RootDeviceType"], found["RootDeviceName"], found["Public"]) == ("ebs", "/dev/xvda", True)
    amazon = aws.ec2.describe_images(Owners=["amazon"])["Images"]
    assert {image["OwnerId"] for image in amazon} >= {"137112412989", "602401143452"}
    assert aws.debian() != aws.debian(WEST), "each region has its own AMI"
    assert (
        aws.ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": ["debian*"]}])["Images"]
        == []
    )


def test_an_image_records_its_source_tags_and_disk(aws: Clients, hosts: FakeHosts, instance: str) -> None:
    aws.ec2.stop_instances(InstanceIds=[instance])
    tags = [{"Key": "run", "Value": "r1"}]
    image = aws.image(
        instance,
        Name="from-instance",
        Description="a description",
        TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("image", "snapshot")],
    )
    found = aws.describe(image)
    assert found["State"] == "available"
    assert (found["RootDeviceType"], found["RootDeviceName"]) == ("ebs", "/dev/xvda")
    assert (found["SourceInstanceId"], found["SourceImageId"]) == (instance, aws.debian())
    assert (found["Name"], found["Description"], found["Public"]) == ("from-instance", "a description", False)
    assert found["OwnerId"] == "123456789012"
    (disk,) = [mapping["Ebs"] for mapping in found["BlockDeviceMappings"]]
    (snapshot,) = aws.ec2.describe_snapshots(SnapshotIds=[disk["SnapshotId"]])["Snapshots"]
    assert (snapshot["State"], disk["Encrypted"]) == ("completed", False)
    assert tags_of(found) == tags_of(snapshot) == {"run": "r1"}
    assert hosts.disks[disk["SnapshotId"]] == f"disk of {instance}"


def test_an_image_keeps_disk_size_and_encryption_of_the_instance(aws: Clients) -> None:
    disk = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 60, "VolumeType": "gp3", "Encrypted": True}}
    instance = aws.run(BlockDeviceMappings=[disk])["InstanceId"]
    (mapping,) = aws.describe(aws.image(instance))["BlockDeviceMappings"]
    assert (mapping["Ebs"]["VolumeSize"], mapping["Ebs"]["Encrypted"]) == (60, True)
    copy = aws("ec2", WEST).copy_image(
        SourceImageId=aws.image(instance), SourceRegion=EAST, Name="stays-encrypted"
    )["ImageId"]
    (mapping,) = aws.describe(copy, WEST)["BlockDeviceMappings"]
    assert (mapping["Ebs"]["VolumeSize"], mapping["Ebs"]["Encrypted"]) == (60, True)


def test_create_image_restarts_a_running_instance_unless_no_reboot_is_set(
    aws: Clients, hosts: FakeHosts, instance: str
) -> None:
    hosts.asked.clear()
    aws.image(instance)
    assert [words[0] for words in hosts.asked] == ["stop", "capture", "start"]
    hosts.asked.clear()
    aws.image(instance, NoReboot=True)
    assert [words[0] for words in hosts.asked] == ["capture"]


@pytest.mark.parametrize("name", ["a" * 129, "with:colon", "hash#"])
def test_refuses_image_names_that_ec2_refuses(aws: Clients, instance: str, name: str) -> None:
    assert refused(aws.ec2.create_image, InstanceId=instance, Name=name) == "InvalidAMIName.Malformed"


def test_an_image_name_is_unique_in_its_region(aws: Clients, instance: str) -> None:
    image = aws.image(instance, Name="only-once")
    assert refused(aws.ec2.create_image, InstanceId=instance, Name="only-once") == "InvalidAMIName.Duplicate"
    request = {"SourceImageId": image, "SourceRegion": EAST, "Name": "only-once"}
    assert refused(aws.ec2.copy_image, **request) == "InvalidAMIName.Duplicate"
    assert aws("ec2", WEST).copy_image(**request)["ImageId"]
    aws.ec2.deregister_image(ImageId=image)
    assert aws.image(instance, Name="only-once") != image


def test_concurrent_requests_for_the_same_name_create_a_single_image(aws: Clients, instance: str) -> None:
    outcomes: list[str] = []

    def make() -> None:
        try:
            outcomes.append(aws.image(instance, Name="a-race"))
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[:5] == ["InvalidAMIName.Duplicate"] * 5


def test_an_image_is_failed_if_its_disk_cannot_be_captured(
    aws: Clients, hosts: FakeHosts, instance: str
) -> None:
    hosts.failing = "capture"
    found = aws.describe(aws.image(instance, Name="fails"))
    assert found["State"] == "failed"
    assert "capture failed" in found["StateReason"]["Message"]
    hosts.failing = None
    assert aws.describe(aws.image(instance, Name="fails"))["State"] == "available", (
        "its name can be used again"
    )


def test_an_image_deleted_during_its_capture_leaves_no_disk(
    aws: Clients, hosts: FakeHosts, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.rehearsal.ec2 import images

    deleted, capture = threading.Event(), FakeHosts.capture

    def slowly(self: FakeHosts, of: str, snapshot: str) -> None:
        deleted.wait(30)
        capture(self, of, snapshot)

    monkeypatch.setattr(images, "CREATE_IMAGE_WAIT_S", 0.1)
    monkeypatch.setattr(FakeHosts, "capture", slowly)
    image = aws.image(instance)
    snapshot = aws.describe(image)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    aws.ec2.deregister_image(ImageId=image)
    aws.ec2.delete_snapshot(SnapshotId=snapshot)
    hosts.asked.clear()
    deleted.set()
    assert until(lambda: ("delete_snapshot", snapshot) in hosts.asked, timeout_s=20, every_s=0.1)
    assert snapshot not in hosts.disks


def test_a_pending_image_cannot_be_started_copied_or_shared(
    aws: Clients, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.rehearsal.ec2.cloud import Cloud

    monkeypatch.setattr(Cloud, "rules", Rules(pending_s=3600.0))
    image = aws.image(instance)
    assert aws.describe(image)["State"] == "pending"
    assert refused(aws.run, image=image) == "InvalidAMIID.Unavailable"
    copy = {"SourceImageId": image, "SourceRegion": EAST, "Name": "too-early"}
    assert refused(aws("ec2", WEST).copy_image, **copy) == "InvalidAMIID.Unavailable"
    share = {"ImageId": image, "LaunchPermission": {"Add": [{"UserId": "111122223333"}]}}
    assert refused(aws.ec2.modify_image_attribute, **share) == "InvalidAMIID.Unavailable"


def test_a_copy_has_tags_only_on_request_and_no_launch_permissions(
    aws: Clients, hosts: FakeHosts, instance: str
) -> None:
    tags = [{"ResourceType": "image", "Tags": [{"Key": "stack", "Value": "s1"}]}]
    image = aws.image(instance, Description="original", TagSpecifications=tags)
    aws.ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"UserId": "111122223333"}]})
    west = aws("ec2", WEST)
    request = {"SourceImageId": image, "SourceRegion": EAST}
    plain = aws.describe(west.copy_image(Name="plain", **request)["ImageId"], WEST)
    assert (tags_of(plain), plain["Description"]) == ({}, "original")
    assert (plain["SourceImageId"], plain["SourceImageRegion"]) == (image, EAST)
    both = [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": kind}]} for kind in ("image", "snapshot")]
    answer = west.copy_image(
        Name="full", CopyImageTags=True, TagSpecifications=both, Encrypted=True, **request
    )
    full = aws.describe(answer["ImageId"], WEST)
    disk = full["BlockDeviceMappings"][0]["Ebs"]
    (snapshot,) = west.describe_snapshots(SnapshotIds=[disk["SnapshotId"]])["Snapshots"]
    assert tags_of(full) == {"stack": "s1", "of": "image"}
    assert (tags_of(snapshot), snapshot["Encrypted"]) == ({"of": "snapshot"}, True)
    permissions = west.describe_image_attribute(ImageId=full["ImageId"], Attribute="launchPermission")
    assert permissions["LaunchPermissions"] == []
    assert hosts.disks[disk["SnapshotId"]] == f"disk of {instance}"


def test_copy_image_with_the_same_client_token_returns_the_same_copy(aws: Clients, instance: str) -> None:
    image = aws.image(instance)
    west = aws("ec2", WEST)
    request = {"SourceImageId": image, "SourceRegion": EAST, "ClientToken": "token-1", "Name": "by-token"}
    assert west.copy_image(**request)["ImageId"] == west.copy_image(**request)["ImageId"]
    assert refused(west.copy_image, **{**request, "Name": "other"}) == "IdempotentParameterMismatch"


def test_the_disk_outlives_the_image_until_its_snapshot_is_deleted(
    aws: Clients, hosts: FakeHosts, instance: str
) -> None:
    image = aws.image(instance)
    snapshot = aws.describe(image)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    assert refused(aws.ec2.delete_snapshot, SnapshotId=snapshot) == "InvalidSnapshot.InUse"
    aws.ec2.deregister_image(ImageId=image)
    assert refused(aws.ec2.deregister_image, ImageId=image) == "InvalidAMIID.Unavailable"
    assert refused(aws.run, image=image) == "InvalidAMIID.Unavailable"
    assert snapshot in hosts.disks
    again = aws.ec2.register_image(
        Name="registered-again",
        Architecture="x86_64",
        RootDeviceName="/dev/sda1",
        VirtualizationType="hvm",
        EnaSupport=True,
        ImdsSupport="v2.0",
        BootMode="uefi-preferred",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    found = aws.describe(again)
    assert (found["Architecture"], found["BootMode"], found["ImdsSupport"]) == (
        "x86_64",
        "uefi-preferred",
        "v2.0",
    )
    assert (found["EnaSupport"], found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]) == (True, snapshot)
    answer = aws.ec2.deregister_image(ImageId=again, DeleteAssociatedSnapshots=True)
    assert [result["ReturnCode"] for result in answer["DeleteSnapshotResults"]] == ["success"]
    assert snapshot not in hosts.disks


def test_an_image_of_another_owner_cannot_be_changed(aws: Clients) -> None:
    image = aws.debian()
    assert refused(aws.ec2.deregister_image, ImageId=image) == "AuthFailure"
    assert refused(aws.ec2.disable_image, ImageId=image) == "AuthFailure"
    change = {"ImageId": image, "LaunchPermission": {"Add": [{"UserId": "111122223333"}]}}
    assert refused(aws.ec2.modify_image_attribute, **change) == "AuthFailure"


def test_unknown_images_and_actions_are_refused_with_the_error_codes_of_ec2(aws: Clients) -> None:
    assert refused(aws.ec2.describe_images, ImageIds=["ami-00000000000000000"]) == "InvalidAMIID.NotFound"
    both = [aws.debian(), "ami-00000000000000000"]
    assert refused(aws.ec2.describe_images, ImageIds=both) == "InvalidAMIID.NotFound"
    assert refused(aws.ec2.describe_images, ImageIds=["nonsense"]) == "InvalidAMIID.Malformed"
    assert refused(aws.run, image="ami-00000000000000000") == "InvalidAMIID.NotFound"
    unknown = {"Bucket": "b", "ObjectKey": "k"}
    assert refused(aws.ec2.create_restore_image_task, **unknown) == "InvalidAction"


def test_the_deprecation_time_is_rounded_and_can_be_removed(aws: Clients, instance: str) -> None:
    image = aws.image(instance)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=400, seconds=17)
    aws.ec2.enable_image_deprecation(ImageId=image, DeprecateAt=soon)
    deprecated_at = datetime.datetime.fromisoformat(aws.describe(image)["DeprecationTime"])
    assert abs(deprecated_at - soon) <= datetime.timedelta(seconds=30)
    assert deprecated_at.second == 0
    aws.ec2.disable_image_deprecation(ImageId=image)
    assert "DeprecationTime" not in aws.describe(image)
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    answer = refused(aws.ec2.enable_image_deprecation, ImageId=image, DeprecateAt=past)
    assert answer == "InvalidParameterValue"


def test_a_disabled_image_is_hidden_and_private_and_cannot_be_started(aws: Clients, instance: str) -> None:
    image = aws.image(instance)
    aws.ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"Group": "all"}]})
    aws.ec2.disable_image(ImageId=image)
    seen = aws.ec2.describe_images(Owners=["self"])["Images"]
    assert image not in [described["ImageId"] for described in seen]
    found = aws.describe(image, IncludeDisabled=True)
    assert (found["State"], found["Public"]) == ("disabled", False)
    assert refused(aws.run, image=image) == "InvalidAMIID.Unavailable"
    aws.ec2.enable_image(ImageId=image)
    assert aws.describe(image)["State"] == "available"


def test_a_protected_image_cannot_be_deregistered(aws: Clients, instance: str) -> None:
    image = aws.image(instance)
    aws.ec2.enable_image_deregistration_protection(ImageId=image)
    assert aws.describe(image)["DeregistrationProtection"] == "enabled-without-cooldown"
    assert refused(aws.ec2.deregister_image, ImageId=image) == "OperationNotPermitted"
    aws.ec2.disable_image_deregistration_protection(ImageId=image)
    aws.ec2.deregister_image(ImageId=image)
    cooling = aws.image(instance)
    aws.ec2.enable_image_deregistration_protection(ImageId=cooling, WithCooldown=True)
    aws.ec2.disable_image_deregistration_protection(ImageId=cooling)
    assert refused(aws.ec2.deregister_image, ImageId=cooling) == "OperationNotPermitted"


def test_changed_image_attributes_can_be_read_back(aws: Clients, instance: str) -> None:
    image = aws.image(instance)
    aws.ec2.modify_image_attribute(ImageId=image, Description={"Value": "changed"})
    aws.ec2.modify_image_attribute(ImageId=image, Attribute="imdsSupport", Value="v2.0")
    assert (aws.describe(image)["Description"], aws.describe(image)["ImdsSupport"]) == ("changed", "v2.0")
    answer = aws.ec2.describe_image_attribute(ImageId=image, Attribute="imdsSupport")
    assert answer["ImdsSupport"]["Value"] == "v2.0"
    back = {"ImageId": image, "Attribute": "imdsSupport", "Value": "v1.0"}
    assert refused(aws.ec2.modify_image_attribute, **back) == "InvalidParameterValue"
    organisation = "arn:aws:organizations::123456789012:organization/o-abc1234567"
    added = [{"UserId": "111122223333"}, {"OrganizationArn": organisation}]
    aws.ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": added})
    answer = aws.ec2.describe_image_attribute(ImageId=image, Attribute="launchPermission")
    assert answer["LaunchPermissions"] == added


def test_fast_snapshot_restore_can_be_enabled_and_disabled(aws: Clients, instance: str) -> None:
    snapshot = aws.describe(aws.image(instance))["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    asked = {"AvailabilityZones": [f"{EAST}a", f"{WEST}a"], "SourceSnapshotIds": [snapshot]}
    answer = aws.ec2.enable_fast_snapshot_restores(**asked)
    assert [(item["AvailabilityZone"], item["State"]) for item in answer["Successful"]] == [
        (f"{EAST}a", "enabling")
    ]
    assert [item["SnapshotId"] for item in answer["Unsuccessful"]] == [snapshot]
    found = aws.ec2.describe_fast_snapshot_restores(Filters=[{"Name": "snapshot-id", "Values": [snapshot]}])
    assert [item["State"] for item in found["FastSnapshotRestores"]] == ["enabled"]
    aws.ec2.disable_fast_snapshot_restores(AvailabilityZones=[f"{EAST}a"], SourceSnapshotIds=[snapshot])
    found = aws.ec2.describe_fast_snapshot_restores(Filters=[{"Name": "snapshot-id", "Values": [snapshot]}])
    assert [item["State"] for item in found["FastSnapshotRestores"]] == ["disabled"]


def test_fast_launch_is_refused_for_linux_images(aws: Clients, instance: str) -> None:
    image = aws.image(instance)
    assert refused(aws.ec2.enable_fast_launch, ImageId=image) == "InvalidParameter"
    assert aws.ec2.describe_fast_launch_images(ImageIds=[image])["FastLaunchImages"] == []


def test_a_dry_run_changes_nothing(aws: Clients, instance: str) -> None:
    image = aws.image(instance)
    for act in (
        aws.ec2.deregister_image,
        aws.ec2.disable_image,
        aws.ec2.enable_image_deregistration_protection,
    ):
        assert refused(act, ImageId=image, DryRun=True) == "DryRunOperation"
    found = aws.describe(image)
    assert (found["State"], found["DeregistrationProtection"]) == ("available", "disabled")
