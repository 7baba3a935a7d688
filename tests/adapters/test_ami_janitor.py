"""What a dead run left, and what the janitor makes of it: all of that run's goes, nothing of another."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami import janitor, journal
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account
from builder.adapters.host.workspace import Run, open_run
from builder.errors import BuildError, FactoryError, Interrupted
from builder.marks import RUN_TAG
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from tests.support.rehearsal import EAST, WEST, Clients, RehearsedAccount
from tests.support.rehearsed_account import AmiAccount

LIVING = ["pending", "running", "stopping", "stopped"]


@pytest.fixture
def proxy(rehearsed_account: RehearsedAccount) -> Iterator[Proxy]:
    with Proxy(rehearsed_account.endpoint) as started:
        yield started


@pytest.fixture
def ami_account(aws: Clients, proxy: Proxy, tmp_path: Path) -> AmiAccount:
    return AmiAccount.open(aws, proxy, tmp_path)


def tagged(run: str, *kinds: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": RUN_TAG, "Value": run}]} for kind in kinds]


@dataclass(frozen=True)
class Left:
    """Ids of what one run has in one region."""

    instance: str
    key: str
    group: str
    volume: str
    image: str
    untagged: str
    snapshots: tuple[str, ...]
    orphan: str


def leave(aws: Clients, run: str, region: str = EAST) -> Left:
    """One of everything, as a run that is killed leaves it."""
    ec2 = aws("ec2", region)
    group = ec2.create_security_group(
        GroupName=f"ami-x-{run}", Description="SSH", TagSpecifications=tagged(run, "security-group")
    )["GroupId"]
    key = f"ami-x-{run}"
    ec2.create_key_pair(KeyName=key)
    running = aws.run(region=region, KeyName=key, TagSpecifications=tagged(run, "instance", "volume"))
    instance = running["InstanceId"]
    ec2.modify_instance_attribute(InstanceId=instance, Groups=[group])
    volume = ec2.create_volume(
        AvailabilityZone=f"{region}a", Size=1, TagSpecifications=tagged(run, "volume")
    )["VolumeId"]
    image = aws.ready_image(
        instance, region, Name=f"ami-x-{run}", TagSpecifications=tagged(run, "image", "snapshot")
    )
    # Older versions of Packer tag last.
    untagged = aws.ready_image(instance, region, Name=f"ami-y-{run}")
    orphan = ec2.create_snapshot(VolumeId=volume, TagSpecifications=tagged(run, "snapshot"))["SnapshotId"]
    disks = tuple(snapshot_of(aws, one, region) for one in (image, untagged))
    return Left(instance, key, group, volume, image, untagged, disks, orphan)


def snapshot_of(aws: Clients, image: str, region: str) -> str:
    return str(aws.describe(image, region)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])


def there(aws: Clients, region: str = EAST) -> set[str]:
    """Everything that a region has of ours."""
    ec2 = aws("ec2", region)
    living = [{"Name": "instance-state-name", "Values": LIVING}]
    reservations = ec2.describe_instances(Filters=living)["Reservations"]
    return {
        *(one["InstanceId"] for each in reservations for one in each["Instances"]),
        *(one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]),
        *(one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]),
        *(one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]),
        *(one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"]),
        *(one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]),
    }


def ids(left: Left, *but: str) -> set[str]:
    found = {name: getattr(left, name) for name in Left.__dataclass_fields__ if name not in but}
    snapshots = found.pop("snapshots", ())
    return {*found.values(), *snapshots}


def begin(ami_account: AmiAccount, run: Run, region: str = EAST) -> None:
    """The journal of a run that is killed in the middle."""
    account = ami_account.account
    account.region = region
    journal.open_entry(run, account, "instance", f"ami-x-{run.name}")
    journal.open_entry(run, account, "image", f"ami-x-{run.name}")


def record(run: Run, target: str, ami: str) -> None:
    """A receipt, as far as anybody here reads it."""
    folder = run.workspace.out / "receipts" / target
    folder.mkdir(parents=True, exist_ok=True)
    receipt = {"format": 1, "artifact": {"reference": ami}, "plan": {}}
    (folder / f"{ami}.json").write_text(json.dumps(receipt))


def test_everything_of_a_dead_run_goes_and_nothing_of_another(ami_account: AmiAccount, aws: Clients) -> None:
    with ami_account.run() as dead, ami_account.run() as living:
        mine, theirs = leave(aws, dead.name), leave(aws, living.name)
        begin(ami_account, dead)
        begin(ami_account, living)
        similar = leave(aws, f"{dead.name}0")
    before = there(aws)
    assert ids(mine) | ids(theirs) | ids(similar) <= before
    removed = janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    gone = before - there(aws)
    root_volumes = {one for one in gone if one.startswith("vol-")} - {mine.volume}
    assert gone - root_volumes == ids(mine)
    assert len(root_volumes) == 1, "the one that ended with its instance"
    assert {mine.instance, mine.key, mine.group, mine.image, mine.untagged} <= set(removed)
    assert journal.read(ami_account.workspace, dead.name) == []
    assert journal.runs(ami_account.workspace) == [living.name]


def test_only_the_regions_of_the_journal_are_swept(
    ami_account: AmiAccount, aws: Clients, proxy: Proxy
) -> None:
    with ami_account.run() as dead:
        here, west = leave(aws, dead.name), leave(aws, dead.name, WEST)
        begin(ami_account, dead, region=WEST)
    janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert ids(west) & there(aws, WEST) == set()
    assert ids(here) <= there(aws)
    assert {call.region for call in proxy.calls} == {WEST}


def test_nothing_is_asked_of_an_account_that_the_run_was_not_in(
    ami_account: AmiAccount, proxy: Proxy
) -> None:
    with ami_account.run() as dead:
        other = Account({"AWS_ENDPOINT_URL": "https://aws.example"}, region=EAST)
        journal.open_entry(dead, other, "instance", "x")
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False) == []
    assert proxy.calls == []
    assert journal.runs(ami_account.workspace) == [dead.name], "it is left for whoever is in that account"


def test_an_image_with_a_receipt_stays_and_so_do_its_copies(ami_account: AmiAccount, aws: Clients) -> None:
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
    before = {region: there(aws, region) for region in (EAST, WEST)}
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False) == []
    assert {region: there(aws, region) for region in (EAST, WEST)} == before
    assert journal.runs(ami_account.workspace) == []


def test_a_complete_image_waits_for_the_next_build_and_goes_when_somebody_cleans(
    ami_account: AmiAccount, aws: Clients
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
    assert {home, disk} <= there(aws)
    assert journal.runs(ami_account.workspace) == [dead.name]
    assert janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False) == [home]
    assert {home, disk} & there(aws) == set()
    assert journal.runs(ami_account.workspace) == []


def test_a_run_that_ended_well_costs_no_call(ami_account: AmiAccount, proxy: Proxy) -> None:
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


def test_a_removal_that_was_cut_short_is_ended(
    ami_account: AmiAccount, aws: Clients, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.adapters.aws import account

    monkeypatch.setattr(account, "RETRIES", {"mode": "standard", "total_max_attempts": 1})
    with ami_account.run() as dead:
        left = leave(aws, dead.name)
        begin(ami_account, dead)
    rounds = 0
    while True:
        rounds += 1
        proxy.calm()
        proxy.disturb(Disturbance(mutating=True, first=2, count=0, drop="before"))
        try:
            janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
        except FactoryError:
            assert rounds < 30
            continue
        break
    assert rounds > 5, "one thing went in each"
    assert ids(left) & there(aws) == set()


def test_what_fails_stays_open_and_what_ends_well_does_not(ami_account: AmiAccount) -> None:
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
    assert [(one.kind, one.name, one.id) for one in found] == [("image", "a", ""), ("key-pair", "a", "")]


def test_half_a_line_is_no_news(ami_account: AmiAccount) -> None:
    with ami_account.run() as run:
        journal.open_entry(run, ami_account.account, "instance", "a")
        path = journal.path_of(ami_account.workspace, run.name)
        whole = path.read_bytes()
        journal.open_entry(run, ami_account.account, "instance", "b")
        rest = path.read_bytes()[len(whole) :]
        for length in range(len(rest)):
            path.write_bytes(whole + rest[:length])
            assert [one.name for one in journal.read(ami_account.workspace, run.name)] in (["a"], ["a", "b"])


def test_runs_at_once_do_not_mix_their_journals(ami_account: AmiAccount) -> None:
    with open_run(ami_account.workspace, "one") as one, open_run(ami_account.workspace, "two") as two:
        journal.open_entry(one, ami_account.account, "instance", "a")
        journal.open_entry(two, ami_account.account, "instance", "b")
        assert [thing.name for thing in journal.read(ami_account.workspace, one.name)] == ["a"]
        assert journal.runs(ami_account.workspace) == sorted([one.name, two.name])


def test_group_that_stays_in_use_is_named_after_the_rest_is_removed(
    ami_account: AmiAccount, aws: Clients, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_RELEASE_S", 0.3)
    with ami_account.run() as dead:
        mine = leave(aws, dead.name)
        begin(ami_account, dead)
    proxy.disturb(Disturbance(action="DeleteSecurityGroup", code="DependencyViolation", count=0))
    with pytest.raises(BuildError, match=f"security group {mine.group} in {EAST} was not deleted") as caught:
        janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert mine.group in caught.value.hint
    assert caught.value.hint.endswith("builder clean")
    assert ids(mine) & there(aws) == {mine.group}
    assert journal.runs(ami_account.workspace) == [dead.name], "the next clean-up finds the group"
    proxy.calm()
    janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert ids(mine) & there(aws) == set()


def test_instance_that_does_not_end_is_named(
    ami_account: AmiAccount, aws: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_END_S", 0.3)
    monkeypatch.setattr(janitor, "_ALIVE", [*janitor._ALIVE, "terminated"])
    with ami_account.run() as dead:
        mine = leave(aws, dead.name)
        begin(ami_account, dead)
    with pytest.raises(BuildError, match=f"{mine.instance} in {EAST} did not terminate") as caught:
        janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=False)
    assert mine.instance in caught.value.hint
    assert journal.runs(ami_account.workspace) == [dead.name]


def test_waiting_for_a_group_can_be_cancelled(ami_account: AmiAccount, aws: Clients, proxy: Proxy) -> None:
    cancelled = threading.Event()
    with ami_account.run() as dead:
        mine = leave(aws, dead.name)
    proxy.disturb(
        Disturbance(action="DeleteSecurityGroup", code="DependencyViolation", count=0),
    )
    timer = threading.Timer(0.5, cancelled.set)
    timer.start()
    with pytest.raises(Interrupted):
        groups.delete(ami_account.account, EAST, mine.group, cancelled=cancelled)
    asked = [call for call in proxy.calls if call.action == "DeleteSecurityGroup"]
    assert 1 <= len(asked) <= 4, "not more often than the account allows"
