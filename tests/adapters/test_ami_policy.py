"""The printed IAM policy, evaluated for calls of builds and publications and for foreign resources."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from builder import catalog
from builder.adapters.ami import family, janitor, kept, spot
from builder.adapters.ami.access import ssh_access
from builder.adapters.ami.permissions import OLD_PACKER, policy
from builder.adapters.aws.account import specifications, tags_of
from builder.adapters.aws.images import PublishedImages
from builder.app.context import Context
from builder.checkpoints import checkpoints
from builder.events import Stream
from builder.marks import BUILDER_TAG, RUN_TAG
from builder.rehearsal.authorization import requests_of
from builder.rehearsal.calls import Call, Disturbance
from builder.rehearsal.iam import ALLOWED, Request, evaluate
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings
from tests.adapters.test_ami_janitor import begin, leave
from tests.support.recordings import FOLDER, requests
from tests.support.rehearsal import DEBIAN, EAST, REGIONS, ROOT, Clients
from tests.support.rehearsed_account import AmiAccount

FEATURES = {"build", "publish", "copy", "share", "deprecate", "group", "profile", "session"}
SETTINGS = AwsSettings(instance_profile="factory", parameters="/image-factory")
POLICY = policy(FEATURES, SETTINGS)

OWN = {RUN_TAG: "20260101-000000-x-abcdef"}
INSTANCE, VOLUME, IMAGE, SNAPSHOT, GROUP = (
    "i-0aaaaaaa",
    "vol-0aaaaaaa",
    "ami-0aaaaaaa",
    "snap-0aaaaaaa",
    "sg-0aaaaaaa",
)
FOREIGN = "0bbbbbbb"


def specification(*kinds: str, tags: Mapping[str, str] = OWN) -> dict[str, str]:
    found = {}
    for number, kind in enumerate(kinds, 1):
        found[f"TagSpecification.{number}.ResourceType"] = kind
        for index, (name, value) in enumerate(tags.items(), 1):
            found[f"TagSpecification.{number}.Tag.{index}.Key"] = name
            found[f"TagSpecification.{number}.Tag.{index}.Value"] = value
    return found


def call(action: str, service: str = "ec2", **parameters: str) -> Call:
    return Call(number=1, service=service, action=action, region=EAST, mutating=True, parameters=parameters)


def refused(call: Call, document: Mapping[str, Any] = POLICY, tags: Any = None) -> list[str]:
    """Return the refused authorizations of a call; ids that end in -0aaaaaaa belong to the run."""

    def by_id(name: str) -> Mapping[str, str]:
        return OWN if name.endswith("-0aaaaaaa") or name == "own" else {}

    asked = requests_of(call, tags or by_id)
    assert asked
    return [f"{each.action} {each.resource}" for each in asked if evaluate([document], each) != ALLOWED]


# The mutating calls of Packer 1.16 with plugin 1.8.2, as recorded in a rehearsal.
PACKER = [
    call(
        "RunInstances",
        **specification("instance", "network-interface", "volume"),
        **{"ImageId": "ami-0ccccccc", "KeyName": "own", "SecurityGroupId.1": GROUP, "SubnetId": ""},
        **{"IamInstanceProfile.Name": "factory"},
    ),
    call(
        "RunInstances",
        **specification("instance", "network-interface", "volume"),
        **{"ImageId": "ami-0ccccccc", "KeyName": "own", "NetworkInterface.1.SubnetId": "subnet-0ccccccc"},
        **{"NetworkInterface.1.SecurityGroupId.1": GROUP},
    ),
    call("StopInstances", **{"InstanceId.1": INSTANCE}),
    call("CreateImage", **specification("image", "snapshot"), InstanceId=INSTANCE, Name="x"),
    call("ModifyImageAttribute", **{"ImageId": IMAGE, "Description.Value": "x"}),
    call("ModifyImageAttribute", **{"ImageId": IMAGE, "ImdsSupport.Value": "v2.0"}),
    call(
        "CreateTags",
        **{"ResourceId.1": IMAGE, "ResourceId.2": SNAPSHOT, "Tag.1.Key": "a", "Tag.1.Value": "b"},
    ),
    call("TerminateInstances", **{"InstanceId.1": INSTANCE}),
    call("DeleteVolume", VolumeId=VOLUME),
    call("DeregisterImage", ImageId=IMAGE),
    call("DeleteSnapshot", SnapshotId=SNAPSHOT),
    call("StartSession", "ssm", Target=INSTANCE, DocumentName="AWS-StartPortForwardingSession"),
]


@pytest.mark.parametrize("call", PACKER, ids=lambda call: str(call.action))
def test_policy_allows_the_calls_of_a_current_packer(call: Call) -> None:
    assert refused(call) == []


def test_policy_allows_the_calls_of_lock(root: Path) -> None:
    """`builder lock` reads the public parameter of each system, then describes the image."""
    sources = [system.ami for system in catalog.load(root).systems.values() if system.ami]
    parameters = [source.parameter for source in sources if source.parameter]
    assert len(parameters) > 5
    for parameter in parameters:
        assert refused(call("GetParameter", "ssm", Name=parameter)) == []
    assert refused(call("GetParameter", "ssm", Name="/prod/database"))
    assert refused(dataclasses.replace(call("DescribeImages"), mutating=False)) == []


# Calls of Packer 1.6.6 that newer versions do not make, because 1.6.6 tags an image only at the end.
LATE = [
    call("CreateImage", InstanceId=INSTANCE, Name="x"),
    call("ModifyImageAttribute", **{"ImageId": f"ami-{FOREIGN}", "Description.Value": "x"}),
    call("CreateTags", **{"ResourceId.1": f"ami-{FOREIGN}", "Tag.1.Key": RUN_TAG, "Tag.1.Value": "x"}),
    call("CreateTags", **{"ResourceId.1": f"snap-{FOREIGN}", "Tag.1.Key": RUN_TAG, "Tag.1.Value": "x"}),
]


@pytest.mark.parametrize("call", LATE, ids=lambda call: str(call.action))
def test_only_the_policy_for_packer_1_6_allows_changes_to_untagged_images(call: Call) -> None:
    assert refused(call)
    assert refused(call, policy({*FEATURES, OLD_PACKER}, SETTINGS)) == []


def tagging(resource: str) -> Call:
    return call("CreateTags", **{"ResourceId.1": resource, "Tag.1.Key": RUN_TAG, "Tag.1.Value": "mine"})


# Calls on resources of other owners, and creations without the tag of a run.
FORBIDDEN = [
    tagging(f"i-{FOREIGN}"),
    tagging(f"vol-{FOREIGN}"),
    tagging(f"ami-{FOREIGN}"),
    tagging(f"snap-{FOREIGN}"),
    tagging(f"sg-{FOREIGN}"),
    call(
        "CreateTags",
        **{"ResourceId.1": IMAGE, "ResourceId.2": f"snap-{FOREIGN}", "Tag.1.Key": "a", "Tag.1.Value": "b"},
    ),
    call("TerminateInstances", **{"InstanceId.1": f"i-{FOREIGN}"}),
    call("TerminateInstances", **{"InstanceId.1": INSTANCE, "InstanceId.2": f"i-{FOREIGN}"}),
    call("StopInstances", **{"InstanceId.1": f"i-{FOREIGN}"}),
    call("ModifyInstanceMetadataOptions", InstanceId=f"i-{FOREIGN}"),
    call("DeleteVolume", VolumeId=f"vol-{FOREIGN}"),
    call("DeregisterImage", ImageId=f"ami-{FOREIGN}"),
    call("DeleteSnapshot", SnapshotId=f"snap-{FOREIGN}"),
    call("DisableImageDeregistrationProtection", ImageId=f"ami-{FOREIGN}"),
    call("EnableImageDeprecation", ImageId=f"ami-{FOREIGN}"),
    call("ModifyImageAttribute", **{"ImageId": f"ami-{FOREIGN}", "LaunchPermission.Add.1.Group": "all"}),
    call("ModifySnapshotAttribute", SnapshotId=f"snap-{FOREIGN}"),
    call("CreateImage", **specification("image", "snapshot"), InstanceId=f"i-{FOREIGN}", Name="x"),
    call("CreateImage", InstanceId=INSTANCE, Name="x"),
    call("CreateImage", **specification("image", "snapshot", tags={"a": "b"}), InstanceId=INSTANCE),
    call("RunInstances", ImageId=IMAGE, KeyName="own"),
    call(
        "RunInstances",
        **specification("instance", "volume"),
        **{"ImageId": IMAGE, "KeyName": "own", "IamInstanceProfile.Name": "administrator"},
    ),
    call("ImportKeyPair", KeyName="x"),
    call("DeleteKeyPair", KeyName="login-prod"),
    call("DeleteSecurityGroup", GroupId=f"sg-{FOREIGN}"),
    call("AuthorizeSecurityGroupIngress", GroupId=f"sg-{FOREIGN}"),
    call("StartSession", "ssm", Target=f"i-{FOREIGN}", DocumentName="AWS-StartPortForwardingSession"),
    call("StartSession", "ssm", Target=INSTANCE, DocumentName="AWS-StartInteractiveCommand"),
    call("PutParameter", "ssm", Name="/prod/database"),
    call("DeleteParameters", "ssm", Names='["/image-factory/x", "/prod/database"]'),
]


@pytest.mark.parametrize("call", FORBIDDEN, ids=lambda call: str(call.action))
def test_policy_forbids_calls_on_foreign_resources(call: Call) -> None:
    assert refused(call)


def current_tags(aws: Clients, name: str, region: str) -> Mapping[str, str]:
    """Return the tags that a resource has now."""
    filters = [{"Name": "key-name", "Values": [name]}]
    if found := aws("ec2", region).describe_key_pairs(Filters=filters)["KeyPairs"]:
        return tags_of(found[0])
    by_id = [{"Name": "resource-id", "Values": [name]}]
    return tags_of(aws("ec2", region).describe_tags(Filters=by_id))


def test_policy_allows_each_call_of_a_publication_a_retirement_and_a_cleanup(
    proxy: Proxy, aws: Clients, private: Path
) -> None:
    """Each call is evaluated before it is carried out, with the tags of its resources at that moment."""
    ami_account = AmiAccount.open(aws, proxy, private)
    document = policy({"build", "publish", "copy", "share", "deprecate", "group"}, ami_account.settings)
    made: list[Request] = []
    lock = threading.Lock()

    def record(call: Call) -> None:
        asked = requests_of(call, lambda name: current_tags(aws, name, call.region))
        with lock:
            made.extend(asked)

    proxy.disturb(Disturbance(kill="before", callback=record, count=0))
    home = ami_account.image()
    ami_account.publish(home)
    family.retire(ami_account.account, home, REGIONS, prefix="/image-factory", force=True, say=lambda _: None)
    with ami_account.run() as dead:
        begin(ami_account, dead)
        left = leave(ami_account, dead.name)
    aws.ec2.create_tags(
        Resources=[left.untagged, left.snapshots[1]],
        Tags=[{"Key": name, "Value": value} for name, value in ami_account.tags(run=dead.name).items()],
    )
    janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    keep_and_remove_checkpoint(ami_account)
    list_spot(ami_account)
    begin_build(ami_account, private)
    assert len({call.action for call in proxy.calls if call.mutating}) > 12
    assert [request for request in made if evaluate([document], request) != ALLOWED] == []
    assert not_needed(document, [*made, *recorded()]) == set()


def keep_and_remove_checkpoint(ami_account: AmiAccount) -> None:
    plan = Context(ROOT).plan("ami-gpu")
    (checkpoint,) = checkpoints(plan)
    made = ami_account.image()
    kept.complete(ami_account.account, made, checkpoint, seconds=1)
    assert kept.deepest(ami_account.account, plan, [checkpoint], AwsSettings()) is None, "no tag of its disk"
    (found,) = kept.removable(ami_account.account, ami_account.builder, keep_last=0)
    assert found.id == made
    found.remove()


def list_spot(ami_account: AmiAccount) -> None:
    """Make the API calls that list EC2 fleets and launch templates."""
    tags = specifications({RUN_TAG: "r", BUILDER_TAG: ami_account.builder}, ["fleet"])
    data = {"ImageId": ami_account.aws.debian(), "InstanceType": "m5.large"}
    ec2 = ami_account.aws.ec2
    template = ec2.create_launch_template(LaunchTemplateName="nodes", LaunchTemplateData=data)
    chosen = {"LaunchTemplateName": "nodes", "Version": "1"}
    ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": chosen}],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
        TagSpecifications=tags,
    )
    assert list(spot.templates(ami_account.account, EAST)) == [], "not a template of Packer"
    (fleet,) = spot.fleets(ami_account.account, EAST, {RUN_TAG: "*", BUILDER_TAG: ami_account.builder})
    ec2.delete_fleets(FleetIds=[fleet], TerminateInstances=True)
    ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplate"]["LaunchTemplateId"])


def begin_build(ami_account: AmiAccount, folder: Path) -> None:
    """Make the calls that precede Packer: those of `builder lock`, and those that set up SSH access."""
    account = ami_account.account
    PublishedImages(account).of_parameter(region=EAST, parameter=DEBIAN)
    assert account.account_id()
    assert EAST in family.regions_of(account)
    with ami_account.run() as run:
        name, tags = f"image-{run.name}", ami_account.tags(run=run.name)
        with ssh_access(run, account, AwsSettings(), Stream(), name=name, folder=folder, tags=tags) as access:
            assert access.group


def recorded() -> Iterator[Request]:
    for path in FOLDER.glob("1.16.0-*.ndjson"):
        yield from requests(path)


def not_needed(document: Mapping[str, Any], made: Sequence[Request]) -> set[str]:
    """Return the actions of a policy that are not needed to allow the requests."""
    allowed = [request for request in made if evaluate([document], request) == ALLOWED]
    actions = {action for statement in document["Statement"] for action in statement["Action"]}
    return {
        action
        for action in actions
        if all(evaluate([_without(document, action)], request) == ALLOWED for request in allowed)
    }


def _without(document: Mapping[str, Any], action: str) -> dict[str, Any]:
    statements = [
        {**statement, "Action": [name for name in statement["Action"] if name != action]}
        for statement in document["Statement"]
    ]
    return {**document, "Statement": statements}
