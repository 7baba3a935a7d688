"""`builder clean --everything` lists and deletes what builds created in an account, and nothing else."""

from pathlib import Path

import pytest

from builder.adapters.ami import inventory
from builder.adapters.aws.account import specifications
from builder.cli import clean
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from tests.support.rehearsal import EAST, REGIONS, WEST
from tests.support.rehearsed_account import OTHER_ACCOUNT, AmiAccount, environment

RUN = "20260101-000000-x-abcdef"


def found(ami_account: AmiAccount) -> list[inventory.Item]:
    return inventory.everything(ami_account.account, REGIONS, "/image-factory")


@pytest.fixture
def leftovers(ami_account: AmiAccount) -> set[str]:
    """Resources of the factory in two regions, next to resources of others; returns those of the factory."""
    inventory.delete(ami_account.account, found(ami_account), lambda _: None)
    tags = ami_account.tags(run=RUN)
    ec2, west = ami_account.aws.ec2, ami_account.aws("ec2", WEST)
    home = ami_account.image(run=RUN)
    ami_account.publish(home)
    key = ec2.create_key_pair(KeyName="builds", TagSpecifications=specifications(tags, ["key-pair"]))
    group = west.create_security_group(
        GroupName="builds", Description="x", TagSpecifications=specifications(tags, ["security-group"])
    )
    instance = ami_account.aws.run(TagSpecifications=specifications(tags, ["instance"]))["InstanceId"]
    ec2.create_key_pair(KeyName="of-others")
    foreign = ami_account.aws.run()["InstanceId"]
    ami_account.aws.image(foreign)
    return {key["KeyName"], group["GroupId"], instance, home}


def test_lists_and_deletes_all_resources_of_builds(
    ami_account: AmiAccount, leftovers: set[str], proxy: Proxy
) -> None:
    items = found(ami_account)
    assert leftovers < {item.id for item in items}
    kinds = [item.kind for item in items]
    assert set(kinds) == {"parameter", "instance", "key pair", "security group", "image", "snapshot"}
    assert kinds == sorted(kinds, key=list(inventory._DELETIONS).index)
    assert proxy.mutating[-1][1] != "DeleteKeyPair", "listing deletes nothing"
    inventory.delete(ami_account.account, items, lambda _: None)
    assert found(ami_account) == []
    keys = {pair["KeyName"] for pair in ami_account.aws.ec2.describe_key_pairs()["KeyPairs"]}
    assert "of-others" in keys
    assert ami_account.aws.ec2.describe_images(Owners=["self"])["Images"]
    ami_account.aws.ec2.delete_key_pair(KeyName="of-others")


def test_a_caller_without_rights_on_resource_shares_lists_everything_else(
    ami_account: AmiAccount, proxy: Proxy
) -> None:
    home = ami_account.image(run=RUN)
    proxy.disturb(Disturbance(action="GetResourceShares", status=403, code="AccessDeniedException", count=0))
    assert home in {item.id for item in found(ami_account)}


@pytest.mark.parametrize(("words", "is_deleted"), [([], False), (["--yes"], True)])
def test_nothing_is_deleted_without_consent(
    ami_account: AmiAccount,
    leftovers: set[str],
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    is_deleted: bool,
) -> None:
    for name, value in environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    site = tmp_path / "site.toml"
    site.write_text(f'[aws]\nregion = "{EAST}"\nshare_accounts = ["{OTHER_ACCOUNT}"]\n')
    monkeypatch.setenv("BUILDER_SITE_FILE", str(site))
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    assert clean.run(["--everything", "--site", "aws", *words]) == 0
    output = capsys.readouterr()
    assert all(name in output.out for name in leftovers)
    assert ("nothing was deleted" in output.err) != is_deleted
    assert bool(found(ami_account)) != is_deleted
    inventory.delete(ami_account.account, found(ami_account), lambda _: None)
    ami_account.aws.ec2.delete_key_pair(KeyName="of-others")
