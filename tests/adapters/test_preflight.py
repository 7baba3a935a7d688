"""`builder doctor --site aws` in rehearsed accounts finds every obstacle to a first build, with its fix."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami.permissions import DOCTOR, features, policy
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account
from builder.adapters.aws.facts import Facts
from builder.app import preflight
from builder.app.context import Context
from builder.app.probes import BAD, GOOD, NOTE, Finding
from builder.errors import UsageError
from builder.rehearsal.proxy import Proxy
from builder.rehearsal.rules import Rules
from builder.site import AwsSettings
from tests.support.rehearsal import ROOT, Clients
from tests.support.rehearsed_account import AmiAccount, environment

SetRules = Callable[[Rules], None]


class Found(dict[str, Finding]):
    """The last finding of each name; `everything` has all findings."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__({finding.about: finding for finding in findings})
        self.everything = findings


Check = Callable[..., Found]


@pytest.fixture
def set_rules(aws: Clients, monkeypatch: pytest.MonkeyPatch) -> SetRules:
    from builder.rehearsal.ec2.cloud import Cloud

    return lambda rules: monkeypatch.setattr(Cloud, "rules", rules)


@pytest.fixture
def check(proxy: Proxy, packer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Return the findings of the pre-flight with a site file and a version of Packer, by name."""
    path = tmp_path / "site.toml"
    monkeypatch.setenv("BUILDER_SITE_FILE", str(path))
    for name, value in environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)

    def run(text: str = "", version: str = "1.6.6") -> Found:
        packer.write_text(f"#!/bin/sh\necho 'Packer v{version}'\n")
        path.write_text(f"[aws]\n{text}\n")
        return Found(list(preflight.findings(Context(ROOT, site_name="aws"))))

    yield run
    assert proxy.mutating == [], "the pre-flight changes nothing"


def test_a_new_account_is_ready(check: Check) -> None:
    found = check()
    assert {name: finding.state for name, finding in found.items() if finding.state != GOOD} == {}
    assert found["aws"].text.startswith("account 123456789012 in us-east-1, as arn:aws:")
    assert "instances get a public address; the route to the internet goes to igw-" in found["network"].text


def test_only_the_identity_is_checked_without_credentials(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = check()
    assert found.keys() == {"aws", "packer version"}
    assert found["aws"].state == BAD
    assert "aws configure" in found["aws"].fix


@pytest.mark.parametrize(
    ("text", "about", "state", "part", "fix"),
    [
        ("public_address = false", "network", BAD, "they reach nothing outside", "public_address = true"),
        ("public_address = false", "ssh", NOTE, "this machine must reach the VPC", "session_manager"),
        ('region = "us-west-2"\nsubnet = "subnet-0123456789abcdef0"', "network", BAD, "InvalidSubnetID", ""),
        ('ssh_interface = "session_manager"', "ssh", BAD, "instance_profile is not set", "AmazonSSMManaged"),
        (
            'share_accounts = ["111122223333"]\nencrypt = true',
            "encryption",
            BAD,
            "AWS managed key",
            "kms_key",
        ),
        ('capacity = "open"', "capacity", BAD, 'Packer 1.6 ignores aws.capacity = "open"', "1.10 or later"),
        ('capacity = "open"\nspot = true', "capacity", BAD, "aws.spot is true", "remove spot or capacity"),
        ('account = "111122223333"', "aws", BAD, "credentials are for account 123456789012", "AWS_PROFILE"),
    ],
)
def test_an_obstacle_in_the_site_file_is_found(
    check: Check, text: str, about: str, state: str, part: str, fix: str
) -> None:
    found = [each for each in check(text).everything if each.about == about]
    assert [each for each in found if each.state == state and part in each.text and fix in each.fix], found


def test_a_subnet_without_a_route_is_found(check: Check, aws: Clients) -> None:
    network = aws.ec2.create_vpc(CidrBlock="10.2.0.0/16")["Vpc"]["VpcId"]
    subnet = aws.ec2.create_subnet(VpcId=network, CidrBlock="10.2.0.0/24")["Subnet"]["SubnetId"]
    finding = check(f'subnet = "{subnet}"')["network"]
    assert (finding.state, "no route to the internet" in finding.text) == (BAD, True)
    assert "NAT gateway" in finding.fix


def test_an_account_that_enforces_tokens_needs_a_current_packer(check: Check, set_rules: SetRules) -> None:
    set_rules(Rules(enforces_tokens=True))
    found = check()
    assert found["metadata tokens"].state == BAD
    assert found["metadata tokens"].fix == "install Packer 1.10 or later"
    found = check(version="1.16.0")
    assert found["metadata tokens"].state == GOOD
    assert "not locked" in found["packer version"].text


def test_a_quota_below_the_largest_build_instance_is_found(check: Check, set_rules: SetRules) -> None:
    set_rules(Rules(vcpus=8))
    finding = check()["quota"]
    assert (finding.state, finding.text) == (
        BAD,
        "8 vCPUs may run at once; the largest build instance, m7g.4xlarge, has 16",
    )


def caller_policy(*more: str, without: str = "") -> dict[str, Any]:
    document = policy({*features(AwsSettings(), encryptable=True), *more}, AwsSettings())
    statements = [
        {**statement, "Action": [name for name in statement["Action"] if name != without]}
        for statement in document["Statement"]
    ]
    return {**document, "Statement": statements}


def test_facts_that_the_caller_may_not_read_are_reported_as_notes(check: Check, set_rules: SetRules) -> None:
    set_rules(Rules(policy=caller_policy()))
    found = check()
    for about in ("network", "metadata tokens", "encryption", "quota", "permissions"):
        assert (found[about].state, "the caller lacks" in found[about].text) == (NOTE, True), found[about]
    assert [name for name, finding in found.items() if finding.state == BAD] == []


def test_the_actions_that_the_callers_policy_lacks_are_named(check: Check, set_rules: SetRules) -> None:
    set_rules(Rules(policy=caller_policy(DOCTOR, without="ec2:CreateImage")))
    finding = check()["permissions"]
    assert finding.state == BAD
    assert "ec2:CreateImage on arn:aws:ec2:*:*:instance/*" in finding.text
    set_rules(Rules(policy=caller_policy(DOCTOR, without="ssm:GetParameter")))
    assert check()["parameters"].state == BAD
    set_rules(Rules(policy=caller_policy(DOCTOR)))
    assert check()["permissions"].state == GOOD


def test_instances_with_public_addresses_need_source_cidrs_from_the_site(
    ami_account: AmiAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host's own address may be private, and then a public instance would refuse its connections."""
    account = ami_account.account
    assert groups.has_public_address(account, AwsSettings())
    assert not groups.has_public_address(account, AwsSettings(public_address=False))
    monkeypatch.setattr(Account, "is_on_this_machine", property(lambda _: False))
    with pytest.raises(UsageError, match="source_cidrs is not set"):
        groups.source_networks(account, AwsSettings())
    for settings in (AwsSettings(public_address=False), AwsSettings(ssh_interface="private_ip")):
        assert len(groups.source_networks(account, settings)) == 1


@pytest.mark.parametrize("path", ["/", "/aws-reserved/sso.amazonaws.com/"])
def test_permissions_of_a_session_are_those_of_its_role(
    check: Check, aws: Clients, monkeypatch: pytest.MonkeyPatch, set_rules: SetRules, path: str
) -> None:
    """AWS returns an STS ARN for a session, without the path of the role; IAM simulates only IAM ARNs."""
    name = f"ci-{uuid.uuid4().hex[:8]}"
    role = aws("iam").create_role(RoleName=name, Path=path, AssumeRolePolicyDocument="{}")["Role"]
    given = aws("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="run-7")["Credentials"]
    for key, value in (
        ("AWS_ACCESS_KEY_ID", given["AccessKeyId"]),
        ("AWS_SECRET_ACCESS_KEY", given["SecretAccessKey"]),
        ("AWS_SESSION_TOKEN", given["SessionToken"]),
    ):
        monkeypatch.setenv(key, value)
    set_rules(Rules(policy=caller_policy(DOCTOR)))
    found = check()
    assert found["aws"].text.endswith(f"as arn:aws:sts::123456789012:assumed-role/{name}/run-7")
    assert found["permissions"].state == GOOD


def test_the_caller_of_a_rehearsal_has_the_arn_of_a_user(check: Check) -> None:
    assert check()["aws"].text.endswith("as arn:aws:iam::123456789012:user/rehearsal")


def test_permissions_of_a_federated_user_are_not_simulated(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Facts, "caller", lambda _: "arn:aws:sts::123456789012:federated-user/jane")
    assert check()["permissions"].state == NOTE


def test_vcpu_quota_of_an_instance_type_is_that_of_its_family(ami_account: AmiAccount, proxy: Proxy) -> None:
    facts = Facts(ami_account.account)
    codes = {
        "m7i.4xlarge": "L-1216C47A",
        "p6-b200.48xlarge": "L-417A185B",
        "p5en.48xlarge": "L-417A185B",
        "g6e.xlarge": "L-DB2E81BA",
    }
    codes |= {"trn2.48xlarge": "L-2C3B7624", "inf2.xlarge": "L-1945791B", "c8gn.xlarge": "L-1216C47A"}
    for name in codes:
        assert facts.vcpu_quota(name) == 1152
    asked = [call.parameters["QuotaCode"] for call in proxy.calls if call.service == "servicequotas"]
    assert asked == list(codes.values())
