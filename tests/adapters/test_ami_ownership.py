"""Resources are deleted only with proof that a run of this builder created them."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from builder.adapters.ami import janitor, journal, spot
from builder.adapters.ami.ownership import builder_id
from builder.adapters.aws import groups
from builder.adapters.aws.account import specifications
from builder.adapters.aws.sshkeys import key_pair
from builder.adapters.host.workspace import Workspace
from builder.cli.main import main
from builder.errors import BuildError, MissingError, UsageError
from builder.marks import BUILDER_TAG, RUN_TAG, TARGET_TAG
from builder.rehearsal.proxy import Proxy
from tests.adapters.test_ami_janitor import existing_ids
from tests.support.rehearsal import EAST, Clients, RehearsedAccount
from tests.support.rehearsed_account import AmiAccount, environment

KINDS = ("key-pair", "security-group", "volume", "snapshot", "image")
_OWN = "<own>"  # replaced by the name of a run or the id of a builder


@pytest.fixture(scope="module")
def proxy(rehearsed_account: RehearsedAccount) -> Iterator[Proxy]:
    with Proxy(rehearsed_account.endpoint, gate=rehearsed_account.gate) as started:
        yield started


@pytest.fixture(scope="module")
def machine(rehearsed_account: RehearsedAccount) -> tuple[str, str]:
    """An instance of another team, and its volume."""
    aws = Clients(rehearsed_account.endpoint)
    instance = aws.run()["InstanceId"]
    volume = aws.ec2.create_volume(AvailabilityZone=f"{EAST}a", Size=1)["VolumeId"]
    return str(instance), str(volume)


@dataclass(frozen=True)
class Thing:
    """A resource of an account; `<own>` in its name stands for the name of the run."""

    kind: str
    tags: dict[str, str]
    name: str

    def tags_of(self, run: str, builder: str) -> dict[str, str]:
        own = {RUN_TAG: run, BUILDER_TAG: builder}
        return {name: value.replace(_OWN, own.get(name, _OWN)) for name, value in self.tags.items()}

    def is_proven(self, begun: str) -> bool:
        if self.tags.get(RUN_TAG) == self.tags.get(BUILDER_TAG) == _OWN:
            return True
        is_named = self.name in (f"ami-x-{_OWN}", _OWN)
        return self.kind == "image" and not self.tags and is_named and begun == "before"


def tag_sets() -> st.SearchStrategy[dict[str, str]]:
    values = {
        RUN_TAG: (_OWN, f"{_OWN}0", "prod"),
        BUILDER_TAG: (_OWN, "0" * 32),
        "Team": ("payments",),
    }
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(own) for name, own in values.items()})


things = st.builds(
    Thing,
    kind=st.sampled_from(KINDS),
    tags=tag_sets(),
    name=st.sampled_from((f"ami-x-{_OWN}", _OWN, f"{_OWN}0", f"a{_OWN}", "payments-prod")),
)


def create(ami_account: AmiAccount, thing: Thing, run: str, suffix: str, machine: tuple[str, str]) -> str:
    """Create a resource with a unique name that contains `suffix`; return its id."""
    aws, ec2 = ami_account.aws, ami_account.aws.ec2
    tags = specifications(thing.tags_of(run, ami_account.builder), [thing.kind])
    given: dict[str, Any] = {"TagSpecifications": tags} if thing.tags else {}
    name = f"{suffix}-{thing.name.replace(_OWN, run)}" if thing.name != f"a{_OWN}" else f"{suffix}a{run}"
    match thing.kind:
        case "key-pair":
            return str(ec2.create_key_pair(KeyName=name, **given)["KeyName"])
        case "security-group":
            return str(ec2.create_security_group(GroupName=name, Description="x", **given)["GroupId"])
        case "volume":
            return str(ec2.create_volume(AvailabilityZone=f"{EAST}a", Size=1, **given)["VolumeId"])
        case "snapshot":
            return str(ec2.create_snapshot(VolumeId=machine[1], Description=name, **given)["SnapshotId"])
        case _:
            return aws.image(machine[0], Name=name, **given)


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(found=st.lists(things, min_size=4, max_size=8), begun=st.sampled_from(("before", "after", "unknown")))
def test_cleanup_of_a_random_account_deletes_only_resources_that_the_run_created(
    ami_account: AmiAccount, machine: tuple[str, str], found: list[Thing], begun: str
) -> None:
    moment = {"before": "2020-01-01T00:00:00Z", "after": "2100-01-01T00:00:00Z", "unknown": "yesterday"}
    with ami_account.run() as dead:
        journal.open_entry(dead, ami_account.account, "image", "x")
    path = journal.path_of(ami_account.workspace, dead.name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "at": moment[begun]}) + "\n")
    made = {create(ami_account, thing, dead.name, os.urandom(4).hex(), machine): thing for thing in found}
    before = existing_ids(ami_account.aws)
    janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    gone = before - existing_ids(ami_account.aws)
    assert gone & set(made) == {name for name, thing in made.items() if thing.is_proven(begun)}
    assert not gone - set(made) or all(name.startswith("snap-") for name in gone - set(made))


@pytest.mark.parametrize(
    "name",
    ["prod", "20260101-000000-prod", "20260101-000000-prod-abcdeg", "x-20260101-000000-prod-abcdef", "*"],
)
def test_cleanup_deletes_nothing_for_a_journal_that_no_run_wrote(
    ami_account: AmiAccount, aws: Clients, name: str
) -> None:
    """The file name of a journal alone does not prove that a run created a resource."""
    key = f"login-{name}" if name != "*" else "login"
    tags = {RUN_TAG: name, "Team": "payments"}
    aws.ec2.create_key_pair(KeyName=key, TagSpecifications=specifications(tags, ["key-pair"]))
    with ami_account.run() as run:
        journal.open_entry(run, ami_account.account, "instance", "x")
    journal.path_of(ami_account.workspace, run.name).rename(journal.path_of(ami_account.workspace, name))
    try:
        assert journal.runs(ami_account.workspace) == []
        with pytest.raises(UsageError, match="not the name of a run"):
            janitor.sweep(ami_account.workspace, ami_account.account, name, keep_complete=False)
        assert key in existing_ids(aws)
    finally:
        aws.ec2.delete_key_pair(KeyName=key)


@pytest.mark.parametrize(
    ("key", "tags"),
    [
        ("login-prod", {}),
        (f"ami-x-{_OWN}0", {}),
        (f"ami-x-{_OWN}", {RUN_TAG: _OWN, BUILDER_TAG: "0" * 32}),
        (f"ami-x-{_OWN}", {"Team": "payments"}),
    ],
)
def test_a_journal_that_names_key_pairs_of_others_is_no_proof(
    ami_account: AmiAccount, aws: Clients, key: str, tags: dict[str, str]
) -> None:
    """Packer 1.6 does not tag spot instances; the journal of a run names the key pair of its instances."""
    with ami_account.run() as dead:
        pass
    key, template = key.replace(_OWN, dead.name), f"packer-fleet-launch-template-{ami_account.target}"
    for kind in ("key-pair", *spot.KINDS):
        journal.open_entry(dead, ami_account.account, kind, key)
    aws.ec2.create_key_pair(KeyName=key)
    given = {name: value.replace(_OWN, dead.name) for name, value in tags.items()}
    tagged = {"TagSpecifications": specifications(given, ["instance"])} if tags else {}
    instance = aws.run(KeyName=key, **tagged)["InstanceId"]
    data = {"ImageId": aws.debian(), "KeyName": key, **tagged}
    aws.ec2.create_launch_template(LaunchTemplateName=template, LaunchTemplateData=data)
    try:
        removed = janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
        assert removed == []
        assert aws.state(instance) == "running"
        (left,) = aws.ec2.describe_launch_templates(LaunchTemplateNames=[template])["LaunchTemplates"]
        assert left["LaunchTemplateName"] == template
    finally:
        aws.ec2.terminate_instances(InstanceIds=[instance])
        aws.ec2.delete_key_pair(KeyName=key)
        aws.ec2.delete_launch_template(LaunchTemplateName=template)


def test_keeps_a_snapshot_of_another_team_in_the_image_of_a_run(
    ami_account: AmiAccount, aws: Clients
) -> None:
    volume = aws.ec2.create_volume(AvailabilityZone=f"{EAST}a", Size=1)["VolumeId"]
    tags = {"Team": "payments", RUN_TAG: "prod"}
    theirs = aws.ec2.create_snapshot(VolumeId=volume, TagSpecifications=specifications(tags, ["snapshot"]))
    with ami_account.run() as dead:
        journal.open_entry(dead, ami_account.account, "image", "x")
    disk = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": theirs["SnapshotId"]}}
    image = aws.ec2.register_image(
        Name=f"x-{dead.name}", RootDeviceName="/dev/xvda", BlockDeviceMappings=[disk]
    )
    aws.ec2.create_tags(
        Resources=[image["ImageId"]],
        Tags=[{"Key": RUN_TAG, "Value": dead.name}, {"Key": BUILDER_TAG, "Value": ami_account.builder}],
    )
    removed = janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert removed == [image["ImageId"]]
    assert theirs["SnapshotId"] in existing_ids(aws)
    (found,) = aws.ec2.describe_snapshots(SnapshotIds=[theirs["SnapshotId"]])["Snapshots"]
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]} == tags, "not tagged either"


def test_retire_refuses_an_image_that_no_builder_made(
    ami_account: AmiAccount,
    aws: Clients,
    proxy: Proxy,
    machine: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**environment(proxy.endpoint), "BUILDER_SITE": "aws"}.items():
        monkeypatch.setenv(name, value)
    image = aws.ready_image(machine[0], Name=f"payments-{os.urandom(4).hex()}")
    assert main(["ami", "retire", image, "--force", "--yes"]) == 2
    assert f"it has no tag {TARGET_TAG}" in capsys.readouterr().err
    assert image in existing_ids(aws)


@pytest.mark.parametrize("tags", [{}, {RUN_TAG: "prod"}])
def test_key_pair_and_security_group_of_another_owner_are_not_taken_over(
    ami_account: AmiAccount, aws: Clients, tmp_path: Path, tags: dict[str, str]
) -> None:
    """Another owner has a key pair and a security group with the names that the run chose."""
    name, own = f"x-{os.urandom(4).hex()}", {RUN_TAG: "run-1", BUILDER_TAG: ami_account.builder}
    more = [{"TagSpecifications": specifications(tags, [kind])} if tags else {} for kind in KINDS[:2]]
    aws.ec2.create_key_pair(KeyName=name, **more[0])
    group = aws.ec2.create_security_group(GroupName=name, Description="x", **more[1])["GroupId"]
    account, site, kept = ami_account.account, ami_account.settings, threading.Event()
    with ami_account.run() as run:
        with (
            pytest.raises(BuildError, match=f"key pair {name}"),
            key_pair(account, name, tmp_path, own, kept=kept),
        ):
            pass
        with (
            pytest.raises(BuildError, match=f"security group {name}"),
            groups.security_group(
                account, site, name, own, cancelled=run.cancelled, on_left=lambda _: None, kept=kept
            ),
        ):
            pass
    assert {name, group} <= existing_ids(aws)


def test_builder_id_is_random_private_and_permanent(tmp_path: Path) -> None:
    first, second = (Workspace(home=tmp_path / name, out=tmp_path) for name in "ab")
    assert builder_id(first) == builder_id(first) != builder_id(second)
    path = first.home / "builder-id"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in first.home.iterdir()] == [path.name]
    path.write_text("")
    with pytest.raises(MissingError, match="not an ID"):
        builder_id(first)
