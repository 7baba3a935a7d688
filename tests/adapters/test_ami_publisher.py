"""Publication of AMIs in several regions, with API errors, interruptions and kills.

During each publication a thread polls the parameter …/latest/image_id and checks that its image is usable.
"""

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from builder.adapters.ami import journal
from builder.adapters.ami.steps import Sharing, snapshots_of
from builder.adapters.aws.account import tags_of
from builder.adapters.aws.images import PublishedImages
from builder.adapters.host.workspace import dead_runs, forget_run
from builder.errors import FactoryError, Interrupted, MissingError, PublishError
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from builder.rehearsal.rules import Rules
from tests.support.rehearsal import EAST, IRELAND, REGIONS, ROOT, WEST, Clients
from tests.support.rehearsed_account import ORGANIZATION, OTHER_ACCOUNT, AmiAccount


@dataclass
class Follower:
    """Reader of the SSM parameters named `latest` that checks the images to which they point."""

    ami_account: AmiAccount
    reads: int = 0
    seen: dict[str, set[str]] = field(default_factory=lambda: {region: set() for region in REGIONS})
    problems: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        for region in itertools.cycle(REGIONS):
            if self.stopped.is_set():
                return
            self.check(region)
            self.stopped.wait(0.02)  # leaves the rehearsed account time for other calls

    def check(self, region: str) -> None:
        ami = self.ami_account.pointer(region)
        self.reads += 1
        if not ami:
            if self.seen[region]:
                self.problems.append(f"{region}: the parameter is gone")
            return
        self.seen[region].add(ami)
        if defect := self.ami_account.lacks(region, ami):
            self.problems.append(f"{region}/{ami} {defect}")


@contextmanager
def followed(ami_account: AmiAccount) -> Iterator[Follower]:
    follower = Follower(ami_account)
    thread = threading.Thread(target=follower.follow, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        follower.stopped.set()
        thread.join(60)
    assert not thread.is_alive()
    assert follower.reads > len(REGIONS)
    assert follower.problems == []


def test_publishes_an_image_in_three_regions(ami_account: AmiAccount) -> None:
    home = ami_account.image()
    publication = ami_account.publish(home)
    assert (publication.name, publication.digest) == (f"{EAST}/{home}", home)
    assert publication.tags == (
        f"/image-factory/{ami_account.target}/debian-12/stack-1-{f'key-of-{ami_account.target}'[:12]}/image_id",
        ami_account.latest,
    )
    for region, ami in ami_account.family(home).items():
        assert ami_account.lacks(region, ami) == ""
        for name in publication.tags:
            assert ami_account.pointer(region, name) == ami
        image = ami_account.aws.describe(ami, region)
        assert image["DeregistrationProtection"] == "enabled-without-cooldown"
        assert image["DeprecationTime"]
        (snapshot,) = snapshots_of(image)
        west = ami_account.aws("ec2", region)
        tags = tags_of(west.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0])
        assert ami_account.tags().items() <= tags.items()
        assert ami_account.tags().items() <= tags_of(image).items()
        answer = west.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
        assert answer["CreateVolumePermissions"] == [{"UserId": OTHER_ACCOUNT}]


def test_writes_ssm_parameters_after_all_copies_and_latest_after_the_versioned_parameters(
    ami_account: AmiAccount, proxy: Proxy
) -> None:
    ami_account.publish(ami_account.image())
    changing = [call for call in proxy.calls if call.mutating]
    written = [call.parameters["Name"].rsplit("/", 2)[1] for call in changing if call.service == "ssm"]
    assert [call.service for call in changing[-6:]] == ["ssm"] * 6
    assert (len(written), written[3:]) == (6, ["latest"] * 3)
    assert "latest" not in written[:3]
    assert all(call.parameters["DataType"] == "aws:ec2:image" for call in changing[-6:])


def test_repeated_publication_changes_nothing(ami_account: AmiAccount, proxy: Proxy) -> None:
    home = ami_account.image()
    publication = ami_account.publish(home)
    before = len(proxy.mutating)
    assert replace(ami_account.publish(home), seconds=0) == replace(publication, seconds=0)
    assert ami_account.publisher(None).holds(publication)
    assert proxy.mutating[before:] == []


def test_publication_is_outdated_after_permissions_or_parameters_change(ami_account: AmiAccount) -> None:
    home = ami_account.image()
    publication = ami_account.publish(home)
    west = ami_account.family(home)[WEST]
    publisher = ami_account.publisher(None)
    assert not publisher.holds(replace(publication, name=f"{WEST}/{home}"))
    assert not publisher.holds(replace(publication, tags=()))
    permission = {"ImageId": west, "LaunchPermission": {"Remove": [{"UserId": OTHER_ACCOUNT}]}}
    ami_account.aws("ec2", WEST).modify_image_attribute(**permission)
    assert not publisher.holds(publication)
    ami_account.publish(home)
    assert publisher.holds(publication)
    ami_account.aws("ssm", IRELAND).delete_parameter(Name=ami_account.latest)
    assert not publisher.holds(publication)
    ami_account.publish(home)
    newer = ami_account.image(key="another-key-of-it")
    ami_account.publish(newer, key="another-key-of-it")
    assert not publisher.holds(publication), "latest points to another image"
    assert ami_account.pointer(EAST, publication.tags[0]) == home, "the versioned parameter keeps its value"


def test_keeps_an_existing_deprecation_date(ami_account: AmiAccount) -> None:
    home = ami_account.image()
    ami_account.publish(home)
    date = ami_account.aws.describe(home)["DeprecationTime"]
    assert PublishedImages(ami_account.account).deprecation(region=EAST, image=home) == date
    with ami_account.run() as run:
        publisher = ami_account.publisher(run)
        later = replace(publisher, settings=replace(ami_account.settings, deprecate_after_days=900))
        later.publish_image(home, ami_account.tags())
    assert ami_account.aws.describe(home)["DeprecationTime"] == date


TRANSIENT_FAULTS = {
    "throttled": Disturbance(code="RequestLimitExceeded", status=503, count=2, mutating=True),
    "server errors": Disturbance(code="InternalError", status=500, count=2, first=3),
    "lost response of CopyImage": Disturbance(action="CopyImage", drop="after"),
    "lost responses of PutParameter": Disturbance(action="PutParameter", drop="after", count=2),
    "lost request of ModifyImageAttribute": Disturbance(action="ModifyImageAttribute", drop="before"),
    "slow DescribeImages": Disturbance(action="DescribeImages", delay_s=0.3, count=6),
}


@pytest.mark.parametrize("name", TRANSIENT_FAULTS)
def test_publishes_despite_transient_faults(ami_account: AmiAccount, proxy: Proxy, name: str) -> None:
    old = ami_account.image(key="old-key-old-key")
    ami_account.publish(old, key="old-key-old-key")
    home = ami_account.image()
    with followed(ami_account) as follower:
        proxy.disturb(TRANSIENT_FAULTS[name])
        ami_account.publish(home)
    assert any(call.disturbed for call in proxy.calls)
    assert follower.seen[EAST] <= {old, home}
    assert {region: ami_account.pointer(region) for region in REGIONS} == ami_account.family(home)


FAULTS = {
    "permanent throttling": (Disturbance(code="RequestLimitExceeded", status=503, count=0), PublishError),
    "missing permission": (
        Disturbance(action="CopyImage", region=WEST, code="UnauthorizedOperation"),
        MissingError,
    ),
    "expired token": (Disturbance(action="ModifyImageAttribute", code="ExpiredToken", count=0), MissingError),
    "error in one region": (
        Disturbance(action="CopyImage", region=IRELAND, code="InternalError"),
        PublishError,
    ),
    "error when writing a parameter": (
        Disturbance(action="PutParameter", first=4, code="InternalError"),
        PublishError,
    ),
    "error during verification": (
        Disturbance(action="DescribeImageAttribute", code="InternalFailure", count=0, region=WEST),
        PublishError,
    ),
}


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("name", FAULTS)
def test_resumes_a_failed_publication(ami_account: AmiAccount, proxy: Proxy, name: str) -> None:
    fault, kind = FAULTS[name]
    old = ami_account.image(key="old-key-old-key")
    ami_account.publish(old, key="old-key-old-key")
    home = ami_account.image()
    with followed(ami_account):
        proxy.disturb(fault)
        with pytest.raises(kind) as caught:
            ami_account.publish(home)
        assert caught.value.hint
        proxy.clear_disturbances()
        ami_account.publish(home)
    assert {region: ami_account.pointer(region) for region in REGIONS} == ami_account.family(home)


def test_deletes_a_failed_copy_and_creates_it_again(
    ami_account: AmiAccount, aws: Clients, hosts: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.errors import BuildError
    from tests.support.rehearsal import FakeHosts

    old = ami_account.image(key="old-key-old-key")
    ami_account.publish(old, key="old-key-old-key")
    home = ami_account.image()
    good, failures = FakeHosts.copy, itertools.count()

    def copy(self: FakeHosts, source: str, snapshot: str) -> None:
        if next(failures) == 0:
            raise BuildError("the disk is full")
        good(self, source, snapshot)

    monkeypatch.setattr(FakeHosts, "copy", copy)
    with followed(ami_account):
        with pytest.raises(PublishError, match="failed: the disk is full"):
            ami_account.publish(home)
        assert [ami_account.pointer(region) for region in REGIONS] == list(ami_account.family(old).values())
        states = [len(ami_account.copies(home, region)) for region in (WEST, IRELAND)]
        assert sorted(states) == [0, 1], "the failed copy is deleted, the other one stays"
        ami_account.publish(home)
    assert {region: ami_account.pointer(region) for region in REGIONS} == ami_account.family(home)


def test_does_not_publish_a_pending_copy_and_reuses_it_later(
    ami_account: AmiAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.rehearsal.ec2.cloud import Cloud

    old = ami_account.image(key="old-key-old-key")
    ami_account.publish(old, key="old-key-old-key")
    home = ami_account.image()
    with followed(ami_account):
        monkeypatch.setattr(Cloud, "rules", Rules(pending_s=3.0))
        with pytest.raises(PublishError, match="still pending"):
            ami_account.publish(home, copy_s=0.5)
        assert ami_account.pointer(EAST) == old
        first = ami_account.family(home)
        ami_account.publish(home)
    assert ami_account.family(home) == first, "no second copy"
    assert {region: ami_account.pointer(region) for region in REGIONS} == first


def test_cancellation_ends_the_wait_for_a_copy(
    ami_account: AmiAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.rehearsal.ec2.cloud import Cloud

    home = ami_account.image()
    monkeypatch.setattr(Cloud, "rules", Rules(pending_s=600.0))
    with ami_account.run() as run:
        publisher = ami_account.publisher(run, copy_s=600)
        threading.Timer(0.5, run.cancelled.set).start()
        with pytest.raises(Interrupted):
            publisher.publish_image(home, ami_account.tags())
    assert ami_account.pointer(EAST) == ""


def test_journal_has_an_entry_before_each_copy_is_requested(ami_account: AmiAccount, proxy: Proxy) -> None:
    home = ami_account.image()
    known: dict[str, list[journal.Entry]] = {}
    with ami_account.run() as run:

        def read_journal(call: object) -> None:
            known[call.region] = journal.read(ami_account.workspace, run.name)  # type: ignore[attr-defined]

        proxy.disturb(Disturbance(action="CopyImage", kill="before", callback=read_journal, count=0))
        ami_account.publisher(run).publish_image(home, ami_account.tags())
        entries = journal.read(ami_account.workspace, run.name)
    assert set(known) == {WEST, IRELAND}
    for region, before in known.items():
        assert ("copy", "") in [(entry.kind, entry.id) for entry in before if entry.region == region]
    assert {entry.region: entry.id for entry in entries} == {
        region: ami for region, ami in ami_account.family(home).items() if region != EAST
    }


def test_sharing_distinguishes_organizations_from_organizational_units() -> None:
    unit = "arn:aws:organizations::123456789012:ou/o-abc1234567/ou-ab12-cdefghij"
    sharing = Sharing(accounts=(OTHER_ACCOUNT,), organizations=(ORGANIZATION, unit))
    assert sharing.permissions == [
        {"UserId": OTHER_ACCOUNT},
        {"OrganizationArn": ORGANIZATION},
        {"OrganizationalUnitArn": unit},
    ]


def test_refuses_to_share_or_copy_an_image_with_an_unsuitable_kms_key(ami_account: AmiAccount) -> None:
    image = ami_account.image()
    encrypted = ami_account.aws.ec2.copy_image(
        SourceImageId=image, SourceRegion=EAST, Name=f"{ami_account.target}-encrypted", Encrypted=True
    )["ImageId"]
    with pytest.raises(PublishError, match="cannot be shared"):
        ami_account.publish(encrypted)
    with ami_account.run() as run:
        publisher = ami_account.publisher(run)
        by_id = replace(
            publisher, settings=replace(ami_account.settings, kms_key="arn:aws:kms:us-east-1:1:key/k")
        )
        with pytest.raises(PublishError, match="other regions do not have the key"):
            by_id.publish_image(encrypted, ami_account.tags())


@dataclass
class Kill:
    """Simulated kill at the `number`th matching call, which is executed; all later calls are dropped."""

    number: int
    mutating: bool | None
    happened: bool = False

    def _end(self, _: object) -> None:
        self.happened = True

    @property
    def disturbances(self) -> list[Disturbance]:
        return [
            Disturbance(
                mutating=self.mutating, first=self.number, kill="after", callback=self._end, drop="after"
            ),
            Disturbance(mutating=self.mutating, first=self.number + 1, count=0, drop="before"),
        ]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.boundaries)])
@pytest.mark.usefixtures("no_retries")
def test_leaves_one_image_per_region_after_a_kill_at_any_call(
    ami_account: AmiAccount, proxy: Proxy, *, every: bool
) -> None:
    """Kill after every fourth changing call, or after every call.

    A simulated kill drops the response of one executed call and all later calls.
    """
    old = ami_account.image(key="old-key-old-key")
    ami_account.publish(old, key="old-key-old-key")
    tried = 0
    with followed(ami_account) as follower:
        for number in itertools.count(1, 1 if every else 4):
            key = f"{number:04}-key-of-it-{ami_account.target}"
            home = ami_account.image(key=key)
            kill = Kill(number, mutating=None if every else True)
            proxy.disturb(*kill.disturbances)
            with suppress(FactoryError):
                ami_account.publish(home, key=key)
            proxy.clear_disturbances()
            if not kill.happened:
                break
            tried += 1
            ami_account.publish(home, key=key)
            family = ami_account.family(home)
            assert {region: ami_account.pointer(region) for region in REGIONS} == family, number
            assert [ami_account.lacks(region, ami) for region, ami in family.items()] == [""] * 3
    print(f"{tried} boundaries, {follower.reads} reads of the parameters")
    assert tried > (20 if every else 5)


CHILD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from builder.adapters.host.workspace import Workspace
from tests.support.rehearsed_account import AmiAccount
endpoint, folder, target, ami, key = sys.argv[1:]
workspace = Workspace(home=Path(folder) / "home", out=Path(folder) / "out")
AmiAccount(None, SimpleNamespace(endpoint=endpoint), workspace, target).publish(ami, key=key)
"""


def test_completes_a_publication_after_its_process_was_killed(
    ami_account: AmiAccount, proxy: Proxy, tmp_path: Path
) -> None:
    """The next process has only the account and the journal to resume from."""
    old = ami_account.image(key="old-key-old-key")
    ami_account.publish(old, key="old-key-old-key")
    with followed(ami_account):
        for number in (2, 14):
            key = f"{number:04}-key-of-it-{ami_account.target}"
            home = ami_account.image(key=key)
            argv = [sys.executable, "-c", CHILD, proxy.endpoint, str(tmp_path), ami_account.target, home, key]
            reached = threading.Event()
            proxy.disturb(
                Disturbance(
                    mutating=True, first=number, kill="after", callback=lambda _, event=reached: event.set()
                ),
                # Calls in flight when the process ends are still executed, after a delay.
                Disturbance(mutating=True, first=number + 1, count=0, delay_s=1.0),
            )
            with subprocess.Popen(argv, cwd=ROOT) as child:
                assert reached.wait(120)
                child.kill()
            assert child.returncode == -signal.SIGKILL
            proxy.clear_disturbances()
            (dead,) = dead_runs(ami_account.workspace)
            assert all(entry.kind == "copy" for entry in journal.read(ami_account.workspace, dead))
            forget_run(ami_account.workspace, dead)
            ami_account.publish(home, key=key)
            assert {region: ami_account.pointer(region) for region in REGIONS} == ami_account.family(home)
