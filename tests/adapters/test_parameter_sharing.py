"""SSM parameters that other accounts read: a publication shares them; reading others is refused."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from builder.adapters.ami.parameter_shares import share_name
from builder.adapters.ami.permissions import features, policy
from builder.adapters.ami.publisher import AmiPublisher
from builder.model import Publication
from builder.rehearsal.authorization import requests_of
from builder.rehearsal.iam import ALLOWED, evaluate
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings
from tests.adapters.test_rehearsal_images import refused
from tests.support.rehearsal import EAST, Clients
from tests.support.rehearsed_account import OTHER_ACCOUNT, AmiAccount, in_account

THIRD_ACCOUNT = "444455556666"
SETTINGS = AwsSettings(share_accounts=(OTHER_ACCOUNT,), share_parameters=True)


def publisher_of(ami_account: AmiAccount, run: Any, **settings: Any) -> AmiPublisher:
    return dataclasses.replace(ami_account.publisher(run), settings=dataclasses.replace(SETTINGS, **settings))


def publish(ami_account: AmiAccount, ami: str, **settings: Any) -> Publication:
    with ami_account.run() as run:
        tags = {name: value for name, value in ami_account.tags().items() if not name.endswith(":run")}
        return publisher_of(ami_account, run, **settings).publish_image(ami, tags)


def delete_shares(client: Any) -> list[dict[str, Any]]:
    """Delete the resource shares of the account, which all tests use, and return them."""
    found = client.get_resource_shares(resourceOwner="SELF", resourceShareStatus="ACTIVE")["resourceShares"]
    for share in found:
        client.delete_resource_share(resourceShareArn=share["resourceShareArn"])
    return list(found)


def arn_of(ami_account: AmiAccount) -> str:
    found = ami_account.aws("ssm").get_parameter(Name=ami_account.latest)["Parameter"]
    return str(found["ARN"])


def test_other_account_reads_the_parameter_and_starts_the_image(ami_account: AmiAccount) -> None:
    home = ami_account.image()
    publish(ami_account, home)
    arn, consumer = arn_of(ami_account), in_account(ami_account.aws, OTHER_ACCOUNT)
    assert consumer("ssm").get_parameter(Name=arn)["Parameter"]["Value"] == home
    assert consumer.describe(home)["OwnerId"] == "123456789012"
    instance = consumer.run(f"resolve:ssm:{arn}")
    assert instance["ImageId"] == home
    consumer.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert refused(consumer("ssm").get_parameter, Name=ami_account.latest) == "ParameterNotFound"
    third = in_account(ami_account.aws, THIRD_ACCOUNT)
    assert refused(third("ssm").get_parameter, Name=arn) == "AccessDeniedException"
    assert refused(third.ec2.describe_images, ImageIds=[home]) == "InvalidAMIID.NotFound"
    assert refused(third.run, image=home) == "InvalidAMIID.NotFound"


def test_a_resource_share_of_another_team_with_the_same_name_is_left_alone(ami_account: AmiAccount) -> None:
    ram, home = ami_account.aws("ram"), ami_account.image()
    delete_shares(ram)
    name = share_name(SETTINGS.parameters)
    created = ram.create_resource_share(name=name, principals=[THIRD_ACCOUNT])
    theirs = created["resourceShare"]["resourceShareArn"]
    publish(ami_account, home)
    found = ram.get_resource_share_associations(associationType="PRINCIPAL", resourceShareArns=[theirs])
    assert [each["associatedEntity"] for each in found["resourceShareAssociations"]] == [THIRD_ACCOUNT]
    arn, consumer = arn_of(ami_account), in_account(ami_account.aws, OTHER_ACCOUNT)
    assert consumer("ssm").get_parameter(Name=arn)["Parameter"]["Value"] == home
    third = in_account(ami_account.aws, THIRD_ACCOUNT)
    assert refused(third("ssm").get_parameter, Name=arn) == "AccessDeniedException"
    ram.delete_resource_share(resourceShareArn=theirs)


def test_parameters_are_private_without_the_setting(ami_account: AmiAccount) -> None:
    publish(ami_account, ami_account.image(), share_parameters=False)
    consumer = in_account(ami_account.aws, OTHER_ACCOUNT)
    assert refused(consumer("ssm").get_parameter, Name=arn_of(ami_account)) == "AccessDeniedException"


def test_sharing_of_a_standard_parameter_is_refused(ami_account: AmiAccount) -> None:
    publish(ami_account, ami_account.image(), share_parameters=False)
    create = ami_account.aws("ram").create_resource_share
    asked = {"name": "x", "resourceArns": [arn_of(ami_account)], "principals": [OTHER_ACCOUNT]}
    assert refused(create, **asked) == "MalformedArnException"


def test_sharing_can_start_later_and_include_further_accounts(ami_account: AmiAccount, proxy: Proxy) -> None:
    home = ami_account.image()
    publication = publish(ami_account, home, share_parameters=False)
    with ami_account.run() as run:
        assert not publisher_of(ami_account, run).holds(publication)
    publish(ami_account, home)
    more = (OTHER_ACCOUNT, THIRD_ACCOUNT)
    publish(ami_account, home, share_accounts=more)
    third = in_account(ami_account.aws, THIRD_ACCOUNT)
    assert third("ssm").get_parameter(Name=arn_of(ami_account))["Parameter"]["Value"] == home
    before = len(proxy.mutating)
    publish(ami_account, home, share_accounts=more)
    assert proxy.mutating[before:] == []
    with ami_account.run() as run:
        assert publisher_of(ami_account, run, share_accounts=more).holds(publication)


def test_policy_has_exactly_the_actions_of_sharing(ami_account: AmiAccount, proxy: Proxy) -> None:
    """Every recorded call is allowed, and removing any of these actions refuses one."""
    delete_shares(ami_account.aws("ram"))
    home = ami_account.image()
    publish(ami_account, home)
    publish(ami_account, home, share_accounts=(OTHER_ACCOUNT, THIRD_ACCOUNT))
    shares = delete_shares(ami_account.account.client("ram"))
    tags = {share["resourceShareArn"]: {"factory:builder": ami_account.builder} for share in shares}

    def refusals(document: Mapping[str, Any]) -> list[str]:
        return [
            request.action
            for call in proxy.calls
            if call.service in ("ram", "ssm")
            for request in requests_of(call, lambda name: tags.get(name, {}))
            if evaluate([document], request) != ALLOWED
        ]

    complete = policy(features(SETTINGS, encryptable=True), SETTINGS)
    assert refusals(complete) == []
    plain = policy(
        features(dataclasses.replace(SETTINGS, share_parameters=False), encryptable=True), SETTINGS
    )
    known = {action for statement in plain["Statement"] for action in statement["Action"]}
    added = {action for statement in complete["Statement"] for action in statement["Action"]} - known
    assert {"ram:CreateResourceShare", "ssm:PutResourcePolicy"} < added
    assert added == set(refusals(plain))


def test_clients_of_other_accounts_are_not_bound_by_the_policy(aws: Clients) -> None:
    from builder.rehearsal.calls import Call
    from builder.rehearsal.ec2 import backends
    from builder.rehearsal.ec2.cloud import Cloud
    from builder.rehearsal.rules import Rules

    other, before = in_account(aws, OTHER_ACCOUNT), Cloud.rules
    backends.set_rules(Rules(policy={"Version": "2012-10-17", "Statement": []}))
    try:
        plain = {"number": 1, "service": "ec2", "action": "DescribeImages", "region": EAST, "mutating": False}
        assert backends.authorize(Call(**plain, access_key=aws.key.access))
        assert backends.authorize(Call(**plain, access_key=other.key.access)) is None
    finally:
        backends.set_rules(before)
