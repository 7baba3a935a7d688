"""`builder deploy` in the rehearsed account: stacks of bucket, vpc and batch, and refused requests."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.adapters.ami import inventory
from builder.adapters.aws import stacks
from builder.adapters.aws.account import Account
from builder.app.account import SiteAccount
from builder.cli.main import main
from builder.rehearsal.gate import SERVICES
from tests.support.rehearsal import EAST, Clients, RehearsedAccount, served
from tests.support.rehearsed_account import environment

IMAGE = "/image-factory/ami-batch-gpu/amazon-2023/latest/image_id"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsedAccount]:
    services = (*SERVICES, "batch", "cloudformation", "logs", "s3")
    with served(tmp_path_factory.mktemp("rehearsal"), services=services) as account:
        yield account


@pytest.fixture(scope="module")
def account(cloud: RehearsedAccount) -> Account:
    return Account(environment(cloud.endpoint), region=EAST)


@pytest.fixture
def deploy(
    root: Path,
    tmp_path: Path,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> "Deploy":
    for name in ("catalog", "ansible", "containers"):
        (tmp_path / name).symlink_to(root / name)
    shutil.copytree(root / "architectures", tmp_path / "architectures")
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(SiteAccount, "account", account)
    monkeypatch.setattr(SiteAccount, "running", lambda site: site.account)
    return Deploy(tmp_path, capsys)


class Deploy:
    """`builder deploy` in a copy of the repository, with its exit code and output."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(["deploy", *words, "--root", str(self.root)])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err


def outputs(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_stacks_are_planned_applied_and_deleted(
    deploy: Deploy, account: Account, cloud: RehearsedAccount
) -> None:
    code, out, err = deploy("plan", "bucket")
    assert (code, "AWS::S3::Bucket" in out) == (0, True), err
    assert stacks.find(account, "bucket") is None, "a plan leaves no stack"
    code, out, err = deploy("apply", "bucket", "--yes")
    assert code == 0, err
    bucket = outputs(out)["BucketName"]
    code, out, err = deploy("apply", "bucket", "NoncurrentDays=7", "--yes")
    assert code == 0, err
    assert deploy("delete", "bucket", "--yes")[0] == 0
    assert stacks.find(account, "bucket") is None
    aws = Clients(cloud.endpoint)
    assert bucket in [found["Name"] for found in aws("s3").list_buckets()["Buckets"]], "the bucket is kept"
    assert deploy("delete", "bucket", "--yes")[0] == 2


def test_batch_stack_uses_the_vpc_stack_and_starts_the_published_ami(
    deploy: Deploy, cloud: RehearsedAccount
) -> None:
    aws = Clients(cloud.endpoint)
    code, out, err = deploy("apply", "vpc", "Zones=us-east-1a,us-east-1b,us-east-1c", "ZoneCount=3", "--yes")
    assert code == 0, err
    network = outputs(out)
    assert len(network["PrivateSubnets"].split(",")) == 3
    group = aws.ec2.describe_security_groups(GroupIds=[network["SecurityGroup"]])["SecurityGroups"][0]
    for rules in (group["IpPermissions"], group["IpPermissionsEgress"]):
        own = [pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]]
        assert own == [network["SecurityGroup"]], "EFA needs a rule within the group in both directions"
    ami = aws.image(aws.run()["InstanceId"])
    (address,) = aws.ec2.describe_addresses()["Addresses"]
    by_id = [{"Name": "resource-id", "Values": [address["AllocationId"]]}]
    assert {tag["Key"] for tag in aws.ec2.describe_tags(Filters=by_id)["Tags"]} >= {
        "factory:architecture",
        "factory:run",
    }
    own = "/test/image_id"  # the parameter that is the default of the template does not exist
    aws("ssm").put_parameter(Name=own, Value=ami, Type="String", DataType="aws:ec2:image")
    code, out, err = deploy("apply", "batch", "InstanceType=p5.48xlarge", f"ImageId={own}", "--yes")
    assert code == 0, err
    found = outputs(out)
    assert found["ImageId"] == ami
    (version,) = aws.ec2.describe_launch_template_versions(LaunchTemplateId=found["LaunchTemplate"])[
        "LaunchTemplateVersions"
    ]
    data = version["LaunchTemplateData"]
    assert (data["ImageId"], len(data["NetworkInterfaces"])) == (ami, 32)
    (queue,) = aws("batch").describe_job_queues()["jobQueues"]
    (compute,) = aws("batch").describe_compute_environments()["computeEnvironments"]
    assert queue["jobQueueArn"] == found["Queue"]
    assert compute["computeResources"]["subnets"] == [network["PrivateSubnet"]]
    for name in ("batch", "vpc"):
        code, _, err = deploy("delete", name, "--yes")
        assert code == 0, err
    in_vpc = [{"Name": "vpc-id", "Values": [network["Vpc"]]}]
    assert not aws.ec2.describe_vpcs(Filters=in_vpc)["Vpcs"]
    assert not aws.ec2.describe_network_interfaces(Filters=in_vpc)["NetworkInterfaces"]
    assert not aws.ec2.describe_addresses()["Addresses"]


def test_a_stack_with_a_resource_in_use_stays_and_can_be_deleted_later(
    deploy: Deploy, cloud: RehearsedAccount
) -> None:
    aws = Clients(cloud.endpoint)
    code, out, err = deploy("apply", "vpc", "Zones=us-east-1a", "--yes")
    assert code == 0, err
    other = aws.ec2.create_route_table(VpcId=outputs(out)["Vpc"])["RouteTable"]["RouteTableId"]
    code, _, err = deploy("delete", "vpc", "--yes")
    assert (code, "stack vpc: DELETE_FAILED" in err) == (4, True), err
    aws.ec2.delete_route_table(RouteTableId=other)
    code, _, err = deploy("delete", "vpc", "--yes")
    assert code == 0, err


def test_clean_everything_lists_and_deletes_only_stacks_of_builder_deploy(
    deploy: Deploy, account: Account, cloud: RehearsedAccount
) -> None:
    formation = Clients(cloud.endpoint)("cloudformation")
    template = (deploy.root / "architectures/bucket/template.yaml").read_text()
    formation.create_stack(StackName="of-others", TemplateBody=template)
    before = {stack["StackName"] for stack in stacks.own_stacks(account, EAST)}
    for name in ("exporter", "importer"):
        assert deploy("apply", "bucket", "--stack", name, "--yes")[0] == 0
    listed = inventory._stacks(account, EAST, lambda text: pytest.fail(text))
    found = [item for item in listed if item.id not in before]
    found.sort(key=lambda item: item.order)
    assert [item.id for item in found] == ["importer", "exporter"], "the newest first"
    assert next(iter(inventory._DELETIONS)) == "stack", "instances of stacks use images"
    inventory.delete(account, found, lambda _: None)
    assert {stack["StackName"] for stack in stacks.own_stacks(account, EAST)} == before
    assert formation.describe_stacks(StackName="of-others")["Stacks"]
    formation.delete_stack(StackName="of-others")


def test_a_proposed_stack_of_others_is_left_alone(deploy: Deploy, cloud: RehearsedAccount) -> None:
    formation = Clients(cloud.endpoint)("cloudformation")
    template = (deploy.root / "architectures/bucket/template.yaml").read_text()
    formation.create_change_set(
        StackName="reviewed", ChangeSetName="theirs", ChangeSetType="CREATE", TemplateBody=template
    )
    for words in (("delete", "bucket"), ("apply", "bucket")):
        code, _, err = deploy(*words, "--stack", "reviewed", "--yes")
        assert (code, "stack 'reviewed' was not made by builder deploy" in err) == (2, True), err
    (stack,) = formation.describe_stacks(StackName="reviewed")["Stacks"]
    assert stack["StackStatus"] == "REVIEW_IN_PROGRESS"
    formation.delete_stack(StackName="reviewed")


class Terminal:
    """Standard input of a terminal; `meanwhile` runs before the user gives the answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: str, meanwhile: Callable[[], object]) -> None:
        def read(_: str) -> str:
            meanwhile()
            return answer

        monkeypatch.setattr(sys, "stdin", self)
        monkeypatch.setattr("builtins.input", read)

    def isatty(self) -> bool:
        return True


def test_a_change_set_that_another_user_executes_keeps_its_stack(
    deploy: Deploy, cloud: RehearsedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user declines changes to a new stack that another user has created in the meantime."""
    formation = Clients(cloud.endpoint)("cloudformation")

    def execute() -> None:
        (proposed,) = (
            each
            for each in formation.list_change_sets(StackName="raced")["Summaries"]
            if each["StackName"] == "raced"
        )
        formation.execute_change_set(StackName="raced", ChangeSetName=proposed["ChangeSetName"])

    with monkeypatch.context() as patched:
        Terminal(patched, "n", execute)
        code, _, err = deploy("apply", "bucket", "--stack", "raced")
    assert (code, "nothing was changed" in err) == (2, True), err
    (stack,) = formation.describe_stacks(StackName="raced")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert deploy("delete", "bucket", "--stack", "raced", "--yes")[0] == 0


def test_a_stack_that_another_tool_replaces_before_the_confirmation_stays(
    deploy: Deploy, cloud: RehearsedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    formation = Clients(cloud.endpoint)("cloudformation")
    body = json.dumps({"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}})
    assert deploy("apply", "bucket", "--stack", "replaced", "--yes")[0] == 0

    def replace() -> None:
        formation.delete_stack(StackName="replaced")
        formation.create_stack(StackName="replaced", TemplateBody=body)

    with monkeypatch.context() as patched:
        Terminal(patched, "y", replace)
        code, _, err = deploy("delete", "bucket", "--stack", "replaced")
    assert (code, "stack 'replaced' was not made by builder deploy" in err) == (2, True), err
    (stack,) = formation.describe_stacks(StackName="replaced")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    formation.delete_stack(StackName="replaced")


def test_a_template_with_resource_types_that_the_rehearsal_lacks_is_refused(
    deploy: Deploy, account: Account
) -> None:
    path = deploy.root / "architectures/bucket/template.yaml"
    resources = {name: {"Type": f"AWS::EKS::{name}"} for name in ("Cluster", "Nodegroup")}
    path.write_text(json.dumps({"Resources": resources}))
    code, out, err = deploy("plan", "bucket", "--stack", "other")
    assert (code, out) == (4, "")
    assert "The rehearsal has no resources of type AWS::EKS::Cluster, AWS::EKS::Nodegroup" in err
    assert stacks.find(account, "other") is None


def test_stacks_are_changed_only_with_consent(deploy: Deploy, account: Account) -> None:
    code, out, err = deploy("apply", "bucket", "--stack", "unasked")
    assert (code, out) == (2, "")
    assert "stdin is not a terminal; pass --yes to confirm" in err
    assert "AWS::S3::Bucket" in err, "the changes are shown first"
    assert stacks.find(account, "unasked") is None


def test_stacks_of_other_tools_are_left_alone(deploy: Deploy, cloud: RehearsedAccount) -> None:
    body = json.dumps({"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}})
    Clients(cloud.endpoint)("cloudformation").create_stack(StackName="theirs", TemplateBody=body)
    for words in (("plan", "bucket"), ("apply", "bucket", "--yes"), ("delete", "bucket", "--yes")):
        code, _, err = deploy(*words, "--stack", "theirs")
        assert code == 2
        assert "stack 'theirs' was not made by builder deploy" in err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ImageId=/nowhere", "Unable to fetch parameters [/nowhere] from parameter store"),
        ("VpcStack=absent", "No export named absent-"),
    ],
)
def test_a_batch_stack_without_an_ami_parameter_or_vpc_stack_is_refused(
    deploy: Deploy, cloud: RehearsedAccount, account: Account, value: str, message: str
) -> None:
    aws = Clients(cloud.endpoint)
    aws("ssm").put_parameter(Name=IMAGE, Value=aws.debian(), Type="String", Overwrite=True)
    code, out, err = deploy("plan", "batch", value, "--stack", "alone")
    assert (code, out) == (4, "")
    assert message in err
    assert "\nhint: " in err
    assert stacks.find(account, "alone") is None
