"""The janitor deletes all resources of a dead run and none of other runs."""

import json
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from builder.adapters.ami import janitor, journal
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account, specifications
from builder.adapters.host.workspace import Run, open_run
from builder.errors import BuildError, FactoryError, Interrupted
from builder.marks import BUILDER_TAG, RUN_TAG
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from builder.rehearsal.rules import Rules
from tests.support.rehearsal import EAST, WEST, Clients
from tests.support.rehearsed_account import AmiAccount

LIVING = ["pending", "running", "stopping", "stopped"]


def tagged(run: str, builder: str, *kinds: str) -> list[dict[str, Any]]:
    return specifications({RUN_TAG: run, BUILDER_TAG: builder}, kinds)


@dataclass(frozen=True)
class Left:
    """Ids of the resources that one run left in one region."""

    instance: str
    key: str
    group: str
    volume: str
    image: str
    untagged: str
    snapshots: tuple[str, ...]
    orphan: str


def leave(ami_account: AmiAccount, run: str, region: str = EAST) -> Left:
    """Create one resource of each kind, as a killed run leaves them after its first journal entry."""
    aws, builder = ami_account.aws, ami_account.builder
    ec2 = aws("ec2", region)
    group = ec2.create_security_group(
        GroupName=f"ami-x-{run}", Description="SSH", TagSpecifications=tagged(run, builder, "security-group")
    )["GroupId"]
    key = f"ami-x-{run}"
    ec2.create_key_pair(KeyName=key, TagSpecifications=tagged(run, builder, "key-pair"))
    running = aws.run(
        region=region, KeyName=key, TagSpecifications=tagged(run, builder, "instance", "volume")
    )
    instance = running["InstanceId"]
    ec2.modify_instance_attribute(InstanceId=instance, Groups=[group])
    volume = ec2.create_volume(
        AvailabilityZone=f"{region}a", Size=1, TagSpecifications=tagged(run, builder, "volume")
    )["VolumeId"]
    image = aws.ready_image(
        instance, region, Name=f"ami-x-{run}", TagSpecifications=tagged(run, builder, "image", "snapshot")
    )
    # Old versions of Packer tag an image after its snapshots, so a killed build leaves it untagged.
    untagged = aws.ready_image(instance, region, Name=f"ami-y-{run}")
    orphan = ec2.create_snapshot(VolumeId=volume, TagSpecifications=tagged(run, builder, "snapshot"))[
        "SnapshotId"
    ]
    disks = tuple(snapshot_of(aws, ami, region) for ami in (image, untagged))
    return Left(instance, key, group, volume, image, untagged, disks, orphan)


def snapshot_of(aws: Clients, image: str, region: str) -> str:
    return str(aws.describe(image, region)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])


def existing_ids(aws: Clients, region: str = EAST) -> set[str]:
    """Return the ids of all resources of the account in a region."""
    ec2 = aws("ec2", region)
    living = [{"Name": "instance-state-name", "Values": LIVING}]
    reservations = ec2.describe_instances(Filters=living)["Reservations"]
    return {
        *(instance["InstanceId"] for each in reservations for instance in each["Instances"]),
        *(key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]),
        *(group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]),
        *(volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]),
        *(image["ImageId"] for image in ec2.describe_images(Owners=["self"])["Images"]),
        *(snapshot["SnapshotId"] for snapshot in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]),
    }


def ids(left: Left, *but: str) -> set[str]:
    found = {name: getattr(left, name) for name in Left.__dataclass_fields__ if name not in but}
    snapshots = found.pop("snapshots", ())
    return {*found.values(), *snapshots}


def begin(ami_account: AmiAccount, run: Run, region: str = EAST) -> None:
    """Write open journal entries, as a killed run leaves them."""
    account = ami_account.account
    account.region = region
    journal.open_entry(run, account, "instance", f"ami-x-{run.name}")
    journal.open_entry(run, account, "image", f"ami-x-{run.name}")


def record(run: Run, target: str, ami: str) -> None:
    """Write a receipt with only the fields that the janitor reads."""
    folder = run.workspace.out / "receipts" / target
    folder.mkdir(parents=True, exist_ok=True)
    receipt = {"format": 1, "artifact": {"reference": ami}, "plan": {}}
    (folder / f"{ami}.json").write_text(json.dumps(receipt))


def test_deletes_all_resources_of_a_dead_run_and_none_of_another(
    ami_account: AmiAccount, aws: Clients
) -> None:
    with ami_account.run() as dead, ami_account.run() as living:
        begin(ami_account, dead)
        begin(ami_account, living)
        own, theirs = leave(ami_account, dead.name), leave(ami_account, living.name)
        similar = leave(ami_account, f"{dead.name}0")
    before = existing_ids(aws)
    assert ids(own) | ids(theirs) | ids(similar) <= before
    removed = janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    gone = before - existing_ids(aws)
    root_volumes = {name for name in gone if name.startswith("vol-")} - {own.volume}
    assert gone - root_volumes == ids(own)
    assert len(root_volumes) == 1, "the root volume of the terminated instance"
    assert {own.instance, own.key, own.group, own.image, own.untagged} <= set(removed)
    assert journal.read(ami_account.workspace, dead.name) == []
    assert journal.runs(ami_account.workspace) == [living.name]


def test_finds_resources_that_ec2_lists_only_after_the_run(
    ami_account: AmiAccount, aws: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose answer was lost leaves an instance or an image that EC2 does not list at first."""
    from builder.rehearsal.ec2.cloud import Cloud

    with ami_account.run() as dead:
        begin(ami_account, dead)
        group = leave(ami_account, dead.name).group
        account = Account(ami_account.account.environment, region=EAST, appear_s=3.0)
        running = aws.run(SecurityGroupIds=[group])["InstanceId"]
        monkeypatch.setattr(Cloud, "rules", Rules(unlisted_s=2.0))
        late = aws.ec2.run_instances(
            ImageId=aws.debian(),
            InstanceType="m5.large",
            MinCount=1,
            MaxCount=1,
            SecurityGroupIds=[group],
            TagSpecifications=tagged(dead.name, ami_account.builder, "instance"),
        )["Instances"][0]["InstanceId"]
        image = aws.image(
            running,
            Name=f"late-{dead.name}",
            TagSpecifications=tagged(dead.name, ami_account.builder, "image", "snapshot"),
        )
    aws.ec2.terminate_instances(InstanceIds=[running])
    assert not {late, image} & existing_ids(aws)
    removed = janitor.sweep(ami_account.workspace, account, dead.name, keep_complete=False)
    assert {late, image, group} <= set(removed)
    monkeypatch.setattr(Cloud, "rules", Rules())
    assert not {late, image, group} & existing_ids(aws)


def test_cleans_only_the_regions_in_the_journal(ami_account: AmiAccount, aws: Clients, proxy: Proxy) -> None:
    with ami_account.run() as dead:
        begin(ami_account, dead, region=WEST)
        here, west = leave(ami_account, dead.name), leave(ami_account, dead.name, WEST)
    janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert ids(west) & existing_ids(aws, WEST) == set()
    assert ids(here) <= existing_ids(aws)
    assert {call.region for call in proxy.calls} == {WEST}


def test_makes_no_calls_if_the_run_used_another_account(ami_account: AmiAccount, proxy: Proxy) -> None:
    with ami_account.run() as dead:
        other = Account({"AWS_ENDPOINT_URL": "https://aws.example"}, region=EAST)
        journal.open_entry(dead, other, "instance", "x")
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False) == []
    assert proxy.calls == []
    assert journal.runs(ami_account.workspace) == [dead.name], "the journal stays for the other account"


def test_keeps_an_image_with_a_receipt_and_its_copies(ami_account: AmiAccount, aws: Clients) -> None:
    with ami_account.run() as dead:
        home = ami_account.image(run=dead.name, name=f"{ami_account.target}-{dead.name}")
        with journal.permanent(
            dead, ami_account.account, "image", f"{ami_account.target}-{dead.name}"
        ) as made:
            made.id = home
        record(dead, ami_account.target, home)
        ami_account.publisher(dead).publish_image(home, ami_account.tags(run=dead.name))
        journal.open_entry(dead, ami_account.account, "copy", "interrupted afterwards")
        west = journal.read(ami_account.workspace, dead.name)[0]
        assert west.kind == "image"
    before = {region: existing_ids(aws, region) for region in (EAST, WEST)}
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False) == []
    assert {region: existing_ids(aws, region) for region in (EAST, WEST)} == before
    assert journal.runs(ami_account.workspace) == []


def test_deletes_a_complete_image_unless_it_is_kept_for_the_next_build(
    ami_account: AmiAccount, aws: Clients, proxy: Proxy
) -> None:
    with ami_account.run() as dead:
        home = ami_account.image(run=dead.name, name=f"{ami_account.target}-{dead.name}")
        with journal.permanent(
            dead, ami_account.account, "image", f"{ami_account.target}-{dead.name}"
        ) as made:
            made.id = home
        journal.open_entry(dead, ami_account.account, "instance", "of the checks")
    disk = snapshot_of(aws, home, EAST)
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=True) == []
    assert {home, disk} <= existing_ids(aws)
    assert journal.runs(ami_account.workspace) == [dead.name]
    before, begun = len(proxy.calls), journal.begun(ami_account.workspace, dead.name)
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=True) == []
    assert proxy.calls[before:] == [], "builds look for leftovers of a run only once"
    assert journal.begun(ami_account.workspace, dead.name) == begun
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False) == [home]
    assert {home, disk} & existing_ids(aws) == set()
    assert journal.runs(ami_account.workspace) == []


def test_makes_no_calls_for_a_successful_run(ami_account: AmiAccount, proxy: Proxy) -> None:
    with ami_account.run() as run:
        with (
            journal.permanent(run, ami_account.account, "image", "x") as made,
            journal.temporary(run, ami_account.account, ("key-pair", "instance"), "x"),
        ):
            made.id = "ami-0123456789abcdef0"
        record(run, ami_account.target, made.id)
        assert janitor.sweep(ami_account.workspace, ami_account.account, run.name, keep_complete=True) == []
    assert proxy.calls == []
    assert journal.runs(ami_account.workspace) == []


@pytest.mark.usefixtures("no_retries")
def test_resumes_an_interrupted_cleanup(ami_account: AmiAccount, aws: Clients, proxy: Proxy) -> None:
    with ami_account.run() as dead:
        begin(ami_account, dead)
        left = leave(ami_account, dead.name)
    rounds = 0
    while True:
        rounds += 1
        proxy.clear_disturbances()
        proxy.disturb(Disturbance(mutating=True, first=2, count=0, drop="before"))
        try:
            janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
        except FactoryError:
            assert rounds < 30
            continue
        break
    assert rounds > 5, "each round deletes one resource"
    assert ids(left) & existing_ids(aws) == set()


def test_journal_entries_stay_open_only_after_an_error(ami_account: AmiAccount) -> None:
    with ami_account.run() as run:
        with (
            pytest.raises(RuntimeError),
            journal.permanent(run, ami_account.account, "image", "a"),
            journal.temporary(run, ami_account.account, ("key-pair",), "a"),
        ):
            raise RuntimeError
        with journal.temporary(run, ami_account.account, ("key-pair", "instance"), "b"):
            assert len(journal.read(ami_account.workspace, run.name)) == 4
        found = journal.read(ami_account.workspace, run.name)
    assert [(entry.kind, entry.name, entry.id) for entry in found] == [
        ("image", "a", ""),
        ("key-pair", "a", ""),
    ]


def test_journal_ignores_a_partial_last_line(ami_account: AmiAccount) -> None:
    with ami_account.run() as run:
        journal.open_entry(run, ami_account.account, "instance", "a")
        path = journal.path_of(ami_account.workspace, run.name)
        whole = path.read_bytes()
        journal.open_entry(run, ami_account.account, "instance", "b")
        rest = path.read_bytes()[len(whole) :]
        for length in range(len(rest)):
            path.write_bytes(whole + rest[:length])
            assert [entry.name for entry in journal.read(ami_account.workspace, run.name)] in (
                ["a"],
                ["a", "b"],
            )


def test_closing_journal_entries_removes_a_partial_last_line(ami_account: AmiAccount) -> None:
    with ami_account.run() as dead:
        begin(ami_account, dead)
    path = journal.path_of(ami_account.workspace, dead.name)
    with path.open("a") as file:
        file.write('{"at": "2026')
    first, *rest = journal.read(ami_account.workspace, dead.name)
    journal.close(ami_account.workspace, dead.name, [first])
    assert journal.read(ami_account.workspace, dead.name) == rest


def test_concurrent_runs_have_separate_journals(ami_account: AmiAccount) -> None:
    with open_run(ami_account.workspace, "one") as first, open_run(ami_account.workspace, "two") as second:
        journal.open_entry(first, ami_account.account, "instance", "a")
        journal.open_entry(second, ami_account.account, "instance", "b")
        assert [entry.name for entry in journal.read(ami_account.workspace, first.name)] == ["a"]
        assert journal.runs(ami_account.workspace) == sorted([first.name, second.name])


def test_reports_a_security_group_in_use_after_deleting_other_resources(
    ami_account: AmiAccount, aws: Clients, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_RELEASE_S", 0.3)
    with ami_account.run() as dead:
        begin(ami_account, dead)
        own = leave(ami_account, dead.name)
    proxy.disturb(Disturbance(action="DeleteSecurityGroup", code="DependencyViolation", count=0))
    with pytest.raises(BuildError, match=f"security group {own.group} in {EAST} was not deleted") as caught:
        janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert own.group in caught.value.hint
    assert caught.value.hint.endswith("builder clean")
    assert ids(own) & existing_ids(aws) == {own.group}
    assert journal.runs(ami_account.workspace) == [dead.name], "the next cleanup finds the group"
    proxy.clear_disturbances()
    janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert ids(own) & existing_ids(aws) == set()


def test_reports_an_instance_that_does_not_terminate(
    ami_account: AmiAccount, aws: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_END_S", 0.3)
    monkeypatch.setattr(janitor, "_ALIVE", [*janitor._ALIVE, "terminated"])
    with ami_account.run() as dead:
        begin(ami_account, dead)
        own = leave(ami_account, dead.name)
    with pytest.raises(BuildError, match=f"{own.instance} in {EAST} did not terminate") as caught:
        janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert own.instance in caught.value.hint
    assert journal.runs(ami_account.workspace) == [dead.name]


def test_wait_for_a_security_group_can_be_cancelled(
    ami_account: AmiAccount, aws: Clients, proxy: Proxy
) -> None:
    cancelled = threading.Event()
    with ami_account.run() as dead:
        own = leave(ami_account, dead.name)
    proxy.disturb(
        Disturbance(action="DeleteSecurityGroup", code="DependencyViolation", count=0),
    )
    timer = threading.Timer(0.5, cancelled.set)
    timer.start()
    with pytest.raises(Interrupted):
        groups.delete(ami_account.account, EAST, own.group, cancelled=cancelled)
    attempts = [call for call in proxy.calls if call.action == "DeleteSecurityGroup"]
    assert 1 <= len(attempts) <= 4, "polls with the backoff of the account"
