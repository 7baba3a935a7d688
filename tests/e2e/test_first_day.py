"""First use of an AWS account with strict policies: site file, doctor, lock, build, check, publication."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.rehearsal.rules import NEW_ACCOUNT, Rules
from tests.support.ami_factory import AmiFactory
from tests.support.factory import Build
from tests.support.output import result_of
from tests.support.rehearsal import EAST, IRELAND, WEST, Clients
from tests.support.rehearsed_account import OTHER_ACCOUNT, in_account

pytestmark = [pytest.mark.engine, pytest.mark.e2e, pytest.mark.boundaries]

# Findings of `builder doctor` about the AWS account; all other findings are about this machine.
ACCOUNT = (
    *("aws", "packer version", "network", "ssh", "metadata tokens", "encryption", "quota", "parameters"),
    "permissions",
)
DENIED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")


@pytest.fixture
def strict(ami_factory: AmiFactory) -> Iterator[AmiFactory]:
    yield ami_factory
    ami_factory.rehearsal.set_rules(NEW_ACCOUNT)


def test_first_ami_in_an_account_with_strict_policies(strict: AmiFactory, tmp_path: Path) -> None:
    """Use only the permissions that `builder iam` prints, in an account that denies other regions."""
    if strict.rehearsal.ssh_port != 22:
        pytest.skip("capability absent: port 22, at which instances of an account are reached, is taken here")
    environment = account_environment(strict, tmp_path)

    def call(*words: str) -> Build:
        done = strict.factory.call(*words, **environment)
        assert done.code == 0, done.stderr
        return done

    call(
        *("init", "site", "--account", "123456789012", "--region", EAST, "--public-address", "yes"),
        *("--source-cidr", "127.0.0.0/8", "--share-account", OTHER_ACCOUNT),
        *("--share-parameters", "yes"),
    )
    consumer = in_account(strict.aws, OTHER_ACCOUNT)
    first = len(strict.calls())
    policy = json.loads(call("iam", "machine", "--packer", "1.6", "--doctor").stdout)
    strict.rehearsal.set_rules(Rules(policy=policy, denied_regions=(WEST, IRELAND)))
    checked = strict.factory.call("doctor", "--site", "aws", "--json", **environment)
    findings = {each["about"]: each for each in result_of(checked.stdout)}
    assert [findings[about] for about in ACCOUNT if findings[about]["state"] != "ok"] == []
    assert findings["permissions"]["text"] == "the caller has the permissions that builder iam prints"
    forget_source(strict)
    call("lock", "machine", "--site", "aws")
    region, _, ami = (
        call("build", "machine", "--site", "aws", "--publish", "--yes").stdout.strip().partition("/")
    )
    assert region == EAST
    call("ami", "show", ami, "--site", "aws")
    check_published(strict, ami)
    check_consumer(strict, consumer, ami)
    call("ami", "retire", ami, "--force", "--yes", "--site", "aws")
    refused = [each for each in strict.calls(after=first) if each.error in DENIED and each.region == EAST]
    assert refused == []
    assert {each.region for each in strict.calls(after=first) if each.mutating} <= {EAST}


def account_environment(factory: AmiFactory, folder: Path) -> dict[str, str]:
    """Return the environment of a user whose AWS credentials are those of the rehearsal."""
    fence = factory.rehearsal.fence(folder / "fence", inherited={}).environment
    aws = {name: value for name, value in fence.items() if name.startswith("AWS_")}
    return {**aws, "BUILDER_SITE_FILE": str(folder / "site.toml")}


def forget_source(factory: AmiFactory) -> None:
    """Remove the made-up source AMIs from the lock file of the test repository."""
    path = factory.factory.repository.root / "catalog/lock.json"
    table = json.loads(path.read_text())
    assert table["entries"].pop("ami")
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")


def check_consumer(factory: AmiFactory, consumer: Clients, ami: str) -> None:
    """Start an instance of the AMI in another account, by the ARN of the SSM parameter of the AMI."""
    name = "/image-factory/machine/debian-12/latest/image_id"
    arn = factory.aws("ssm").get_parameters(Names=[name])["Parameters"][0]["ARN"]
    assert consumer("ssm").get_parameter(Name=arn)["Parameter"]["Value"] == ami
    instance = consumer.run(f"resolve:ssm:{arn}")
    try:
        assert instance["ImageId"] == ami
    finally:
        consumer.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def check_published(factory: AmiFactory, ami: str) -> None:
    name = "/image-factory/machine/debian-12/latest/image_id"
    (parameter,) = factory.aws("ssm").get_parameters(Names=[name])["Parameters"]
    assert parameter["Value"] == ami
    image = factory.aws.describe(ami)
    assert (image["State"], image["ImdsSupport"]) == ("available", "v2.0")
    asked = {"ImageId": ami, "Attribute": "launchPermission"}
    permissions = factory.aws.ec2.describe_image_attribute(**asked)["LaunchPermissions"]
    assert permissions == [{"UserId": OTHER_ACCOUNT}]
