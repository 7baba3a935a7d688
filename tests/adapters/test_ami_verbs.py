"""`builder ami` and `builder iam` in a rehearsed account, called through the command line."""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami import family
from builder.adapters.ami.permissions import GRANTS, OLD_PACKER, allows, needs, policy
from builder.adapters.aws.account import Account, tags_of
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.lanes.ami import AmiLane
from builder.app.lanes.lane import Request
from builder.cli.main import main
from builder.errors import MissingError, UsageError
from builder.marks import TARGET_TAG
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from builder.rehearsal.rules import Rules
from builder.site import AwsSettings
from tests.adapters.test_ami_janitor import begin, leave
from tests.support.output import result_of
from tests.support.rehearsal import EAST, IRELAND, REGIONS, ROOT, WEST, Clients
from tests.support.rehearsed_account import OTHER_ACCOUNT, AmiAccount, environment

SITE = f"""
[aws]
region = "{EAST}"
copy_regions = ["{WEST}", "{IRELAND}"]
share_accounts = ["{OTHER_ACCOUNT}"]
share_organizations = ["arn:aws:organizations::123456789012:organization/o-abc1234567"]
deprecate_after_days = 400
"""


@pytest.fixture
def ami_account(aws: Clients, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AmiAccount:
    """Set the environment of a `builder` call, limited to the regions of the rehearsal."""
    (tmp_path / "site.toml").write_text(SITE)
    for name, value in environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUILDER_SITE_FILE", str(tmp_path / "site.toml"))
    monkeypatch.setenv("BUILDER_SITE", "aws")
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Context, "workspace", AmiAccount.open(aws, proxy, tmp_path).workspace)
    monkeypatch.setattr(family, "regions_of", lambda _: REGIONS)
    return AmiAccount.open(aws, proxy, tmp_path)


def receipt(
    ami_account: AmiAccount, ami: str, outcome: str = "passed", tags: Mapping[str, str] | None = None
) -> Path:
    folder = ami_account.workspace.out / "receipts" / ami_account.target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ami}.json"
    table = {
        "format": 1,
        "artifact": {"kind": "ami", "reference": ami},
        "report": {"checks": [{"outcome": outcome}]},
        "plan": {"system": {"ami": {"tags": tags or {}}}},
    }
    path.write_text(json.dumps(table))
    return path


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["ami", *words, "--root", str(ROOT)]) == 0
    return result_of(capsys.readouterr().out)


def test_publishes_lists_shares_deprecates_shows_and_retires_an_image(
    ami_account: AmiAccount, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ami_account.image()
    path = receipt(ami_account, home)
    assert main(["ami", "publish", ami_account.target]) == 0
    assert ami_account.pointer(IRELAND) == ami_account.family(home)[IRELAND]
    rows = [row for row in run_json(capsys, "list", "--json") if row["target"] == ami_account.target]
    assert {row["region"]: row["ami"] for row in rows} == ami_account.family(home)
    assert {row["published"] for row in rows} == {"latest"}
    assert main(["ami", "share", home, "--account", "444455556666"]) == 0
    assert main(["ami", "deprecate", str(path), "--after", "30"]) == 0
    shown = run_json(capsys, "show", home, "--json")
    assert [image["region"] for image in shown] == list(REGIONS)
    for image in shown:
        assert {OTHER_ACCOUNT, "444455556666"} <= set(image["shared_with"])
        assert (image["metadata_tokens"], image["protected"]) == ("required", True)
        assert ami_account.latest in image["parameters"]
    assert main(["ami", "show", home]) == 0
    assert ami_account.latest in capsys.readouterr().out.replace("\n", "")

    assert main(["ami", "retire", home, "--yes"]) == 2, "the latest image needs --force"
    assert ami_account.pointer(EAST) == home
    family = ami_account.family(home)
    disks = {region: ami_account.aws.describe(ami, region) for region, ami in family.items()}
    assert main(["ami", "retire", home, "--yes", "--force"]) == 0
    for region in REGIONS:
        assert ami_account.pointer(region) == ""
        snapshot = disks[region]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        own = ami_account.aws("ec2", region).describe_snapshots(OwnerIds=["self"])["Snapshots"]
        assert snapshot not in [existing["SnapshotId"] for existing in own]
    assert ami_account.copies(home, WEST) == []


def test_retires_an_old_image_without_changing_the_latest_parameter(ami_account: AmiAccount) -> None:
    old, new = ami_account.image(key="old-key-old-key"), ami_account.image()
    for ami, key in ((old, "old-key-old-key"), (new, "")):
        ami_account.publish(ami, key=key)
    assert main(["ami", "retire", old, "--yes"]) == 0
    assert {region: ami_account.pointer(region) for region in REGIONS} == ami_account.family(new)
    names = ami_account.aws("ssm").get_parameters_by_path(
        Path=f"/image-factory/{ami_account.target}", Recursive=True
    )
    assert {parameter["Value"] for parameter in names["Parameters"]} == {new}


@pytest.mark.usefixtures("no_retries")
def test_resumes_a_retirement_interrupted_at_any_call(ami_account: AmiAccount, proxy: Proxy) -> None:
    home = ami_account.image()
    ami_account.publish(home)
    regions = {
        region: ami_account.aws.describe(ami, region) for region, ami in ami_account.family(home).items()
    }
    rounds = 0
    while True:
        proxy.clear_disturbances()
        # In each round one mutating call is executed without a response; later mutating calls are dropped.
        proxy.disturb(
            Disturbance(mutating=True, drop="after"),
            Disturbance(mutating=True, first=2, count=0, drop="before"),
        )
        rounds += 1
        code = main(["ami", "retire", home, "--yes", "--force"])
        for region in REGIONS:
            ami = ami_account.pointer(region)
            assert ami in ("", regions[region]["ImageId"])
            assert not ami or ami_account.lacks(region, ami) == ""
        if code == 0:
            break
        assert rounds < 40
    assert rounds > 9
    assert len([call for call in proxy.calls if call.disturbed]) < rounds, "no call is retried"
    for region, image in regions.items():
        own = ami_account.aws("ec2", region).describe_snapshots(OwnerIds=["self"])["Snapshots"]
        snapshot = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        assert snapshot not in [existing["SnapshotId"] for existing in own]


def test_copy_is_shared_and_protected_like_its_image(
    ami_account: AmiAccount, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ami_account.image()
    assert main(["ami", "copy", home, "--region", WEST, "--root", str(ROOT)]) == 0
    (copy,) = ami_account.copies(home, WEST)
    assert capsys.readouterr().out == f"{WEST}/{copy['ImageId']}\n"
    assert ami_account.lacks(WEST, copy["ImageId"]) == ""
    assert ami_account.pointer(WEST) == "", "no parameter points to the copy"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["show"], "are required: AMI"),
        (["show", "ami-00000000000000000"], "no AMI ami-00000000000000000"),
        (["show", "nothing-of-that-name"], "no AMI receipt"),
        (["copy", "HOME", "--region", EAST], "no region to copy to"),
        (["copy", "HOME", "--region", "mars-1"], "--region mars-1: the account has no such region"),
        (["share", "HOME"], "no account given"),
        (["deprecate", "HOME", "--after", "0"], "must be 1 to 3650 days"),
        (["publish", "HOME"], "has no receipt"),
        (["retire", "HOME"], "cannot ask for confirmation"),
    ],
)
def test_invalid_requests_fail_without_changes(
    ami_account: AmiAccount, proxy: Proxy, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    home = ami_account.image()
    assert main(["ami", *(home if word == "HOME" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert "hint:" in error
    assert proxy.mutating == []


def test_refuses_to_publish_an_image_with_failed_checks(ami_account: AmiAccount, proxy: Proxy) -> None:
    home = ami_account.image()
    receipt(ami_account, home, "failed")
    assert main(["ami", "publish", home]) == 2
    assert proxy.mutating == []


def test_published_images_have_the_tags_of_their_system(ami_account: AmiAccount, proxy: Proxy) -> None:
    home, own = ami_account.image(), {"parallelcluster:version": "3.16.3"}
    receipt(ami_account, home, tags={**own, TARGET_TAG: "other"})
    assert main(["ami", "publish", home]) == 0
    for region, ami in ami_account.family(home).items():
        assert (own | ami_account.tags()).items() <= tags_of(ami_account.aws.describe(ami, region)).items()


def test_unattended_build_needs_named_source_networks(
    ami_account: AmiAccount, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(ROOT, site_name="aws")
    monkeypatch.setattr(SiteAccount, "source", lambda *_: {"ImageId": "ami-1"})
    lane = AmiLane(context, threading.Event())
    with pytest.raises(UsageError, match="source_cidrs is not set"):
        lane.confirm([context.plan("ami-cpu")], Request(yes=True))
    assert proxy.mutating == []


def test_commands_with_credentials_of_another_account_change_nothing(
    ami_account: AmiAccount, proxy: Proxy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = ami_account.image()
    receipt(ami_account, home)
    site = tmp_path / "site.toml"
    site.write_text(SITE.replace("[aws]", '[aws]\naccount = "999999999999"'))
    share = ["share", home, "--account", OTHER_ACCOUNT]
    for words in (["retire", home, "--yes", "--force"], ["publish", home], share):
        assert main(["ami", *words]) == 3
        assert "account 123456789012, but aws.account in site.toml is 999999999999" in capsys.readouterr().err
    assert {call.action for call in proxy.calls} == {"GetCallerIdentity"}
    site.write_text(SITE.replace("[aws]", '[aws]\naccount = "123456789012"'))
    assert main(["ami", "publish", home]) == 0
    site.write_text(SITE.replace("[aws]", '[aws]\naccount = "prod"'))
    assert main(["ami", "publish", home]) == 2
    assert "aws.account: must be an account id of 12 digits" in capsys.readouterr().err


def test_latest_is_not_moved_to_an_older_image(
    ami_account: AmiAccount, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    from moto.ec2 import ec2_backends

    old = ami_account.image(key="old-key-old-key")
    ec2_backends["123456789012"][EAST].amis[old].creation_date = datetime(2020, 1, 1, tzinfo=UTC)
    new = ami_account.image()
    ami_account.publish(new)
    receipt(ami_account, old)
    calls = len(proxy.mutating)
    assert main(["ami", "publish", old]) == 6
    error = capsys.readouterr().err
    assert f"{ami_account.latest} in {EAST} points to {new}" in error
    assert "--force" in error
    assert proxy.mutating[calls:] == [], "refused before the old image is copied or shared"
    assert ami_account.pointer(EAST) == new
    assert main(["ami", "publish", old, "--force"]) == 0
    assert {region: ami_account.pointer(region) for region in REGIONS} == ami_account.family(old)


def test_finds_and_clears_dead_runs_but_no_running_runs(
    ami_account: AmiAccount, aws: Clients, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.app.dead_runs import dead_runs

    with ami_account.run() as dead, ami_account.run() as living:
        begin(ami_account, dead)
        begin(ami_account, living)
        left = leave(ami_account, dead.name)
        leave(ami_account, living.name)
        context = Context(ROOT, site_name="aws")
        assert dead_runs(context) == [], "both are running"
    with ami_account.run() as living:
        begin(ami_account, living)
        found = dead_runs(context)
        assert dead.name in [dead_run.run for dead_run in found]
        assert living.name not in [dead_run.run for dead_run in found]
        (own,) = (dead_run for dead_run in found if dead_run.run == dead.name)
        assert left.image in own.clear(context, keep_complete=False)
    assert dead.name not in [dead_run.run for dead_run in dead_runs(context)]


def test_does_not_clear_runs_in_an_account_that_the_site_cannot_reach(
    ami_account: AmiAccount, proxy: Proxy
) -> None:
    from builder.adapters.ami import journal
    from builder.app.dead_runs import dead_runs

    with ami_account.run() as dead:
        other = Account({"AWS_ENDPOINT_URL": "https://aws.example"}, region=EAST)
        journal.open_entry(dead, other, "instance", "x")
    (found,) = dead_runs(Context(ROOT))
    assert (found.run, found.account) == (dead.name, None)
    assert found.clear(Context(ROOT), keep_complete=False) == []
    assert journal.runs(ami_account.workspace) == [dead.name]
    assert proxy.calls == []


def test_policy_allows_every_recorded_call(
    ami_account: AmiAccount, proxy: Proxy, aws: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record the calls of publication, all verbs and the janitor, including read-only calls."""
    from builder.adapters.ami import janitor

    monkeypatch.undo()
    home = ami_account.image()
    ami_account.publish(home)
    account = ami_account.account
    account.account_id()
    everywhere = family.family(account, home, REGIONS)
    family.pointers(everywhere, "/image-factory")
    family.describe(everywhere[0], ())
    family.regions_of(account)
    assert family.all_of(account, REGIONS)
    family.retire(account, home, REGIONS, prefix="/image-factory", force=True, say=lambda _: None)
    with ami_account.run() as dead:
        begin(ami_account, dead)
        leave(ami_account, dead.name)
    janitor.sweep(ami_account.workspace, account, dead.name, keep_complete=False)
    called = {(call.service, call.action) for call in proxy.calls}
    assert len(called) > 25
    document = policy({"build", "publish", "copy", "deprecate", "group"}, ami_account.settings)
    assert [call for call in sorted(called) if not allows(document, *call)] == []


# Calls of a build without publication: the calls of Packer 1.6.6 and of the checks, recorded in a rehearsal,
# and the cleanup calls that Packer's documentation lists.
BUILDING = (
    *("AuthorizeSecurityGroupIngress", "CreateImage", "CreateSecurityGroup", "CreateTags", "DeleteKeyPair"),
    *("DeleteSecurityGroup", "DescribeImages", "DescribeInstances", "DescribeSecurityGroups"),
    *(
        "ImportKeyPair",
        "ModifyImageAttribute",
        "ModifyInstanceMetadataOptions",
        "RunInstances",
        "StopInstances",
    ),
    *("TerminateInstances", "DeregisterImage", "DeleteSnapshot", "DeleteVolume", "DescribeVolumes"),
)


def test_policy_allows_the_calls_of_packer() -> None:
    document = policy({"build", "group", OLD_PACKER}, AwsSettings())
    assert [call for call in BUILDING if not allows(document, "ec2", call)] == []


def test_iam_policy_has_only_the_statements_that_the_site_needs() -> None:
    plan = Context(ROOT, site_name="aws").plan("ami-cpu")
    least = AwsSettings(security_group="sg-1")
    assert needs(plan, least) == {"build", "publish"}
    document = policy(needs(plan, least), least)
    assert not allows(document, "ec2", "CopyImage")
    assert not allows(document, "ec2", "CreateSecurityGroup")
    assert not allows(document, "kms", "CreateGrant")
    full = AwsSettings(
        copy_regions=(WEST,), deprecate_after_days=1, encrypt=True, instance_profile="p", parameters="/x"
    )
    document = policy(needs(plan, full), full, partition="aws-cn")
    text = json.dumps(document)
    assert "{" not in "".join(json.dumps(statement["Resource"]) for statement in document["Statement"])
    assert "arn:aws-cn:ssm:*:*:parameter/x/*" in text
    assert '"arn:aws:' not in text
    for action in ("CopyImage", "EnableImageDeprecation", "CreateSecurityGroup"):
        assert allows(document, "ec2", action)
    assert len({grant.name for grant in GRANTS}) == len(GRANTS)


def test_only_read_only_calls_are_unrestricted() -> None:
    """All other statements are restricted by resource or condition where EC2 supports restrictions."""
    free = {grant.name for grant in GRANTS if grant.resources == ("*",) and grant.condition is None}
    assert free == {"Read", "SessionRead", "Doctor", "SharesRead", "ReservationRead"}


def test_builder_iam_prints_the_policy_without_an_account(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["iam", "ami-cpu", "--root", str(ROOT)]) == 0
    assert json.loads(capsys.readouterr().out)["Version"] == "2012-10-17"
    assert main(["iam", "ami-cpu", "--packer", "1.6", "--root", str(ROOT)]) == 0
    printed = {statement["Sid"] for statement in json.loads(capsys.readouterr().out)["Statement"]}
    assert {grant.name for grant in GRANTS if grant.when == OLD_PACKER} <= printed
    assert main(["iam", "cpu-ddp", "--root", str(ROOT)]) == 2


def test_retires_an_image_in_an_account_that_denies_other_regions(
    ami_account: AmiAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.rehearsal.ec2.cloud import Cloud

    home = ami_account.image()
    account, retire = ami_account.account, partial(family.retire, prefix="/x", force=True, say=lambda _: None)
    monkeypatch.setattr(Cloud, "rules", Rules(denied_regions=(EAST,)))
    with pytest.raises(MissingError, match="UnauthorizedOperation"):
        retire(account, home, REGIONS)
    monkeypatch.setattr(Cloud, "rules", Rules(denied_regions=(WEST,)))
    retire(account, home, REGIONS)
    assert account.image(home) is None
