"""Publication of AMIs: what comes of it in every region, whatever happens on the way.

Whoever follows …/latest/image_id is a thread of its own here, that looks all the time.
"""

import itertools
import os
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
from builder.adapters.aws import account as account_module
from builder.adapters.aws.account import tags_of
from builder.adapters.host.workspace import dead_runs, forget_run
from builder.errors import FactoryError, Interrupted, MissingError, PublishError
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from tests.support.rehearsal import EAST, IRELAND, REGIONS, ROOT, WEST, Clients, RehearsedAccount
from tests.support.rehearsed_account import FRIEND, ORGANIZATION, Shop


@pytest.fixture
def proxy(rehearsed_account: RehearsedAccount) -> Iterator[Proxy]:
    with Proxy(rehearsed_account.endpoint) as started:
        yield started


@pytest.fixture
def shop(aws: Clients, proxy: Proxy, tmp_path: Path) -> Shop:
    return Shop.open(aws, proxy, tmp_path)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are not repeated: a process that is killed does not repeat any."""
    monkeypatch.setattr(account_module, "_RETRIES", {"mode": "standard", "total_max_attempts": 1})


@dataclass
class Follower:
    """Looks where the newest parameters lead, and at what is there."""

    shop: Shop
    looked: int = 0
    seen: dict[str, set[str]] = field(default_factory=lambda: {region: set() for region in REGIONS})
    complaints: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        for region in itertools.cycle(REGIONS):
            if self.stopped.is_set():
                return
            self.look(region)
            self.stopped.wait(0.02)  # as long as a call takes: the account has others to answer

    def look(self, region: str) -> None:
        ami = self.shop.pointer(region)
        self.looked += 1
        if not ami:
            if self.seen[region]:
                self.complaints.append(f"{region}: the parameter is gone")
            return
        self.seen[region].add(ami)
        if lacks := self.shop.lacks(region, ami):
            self.complaints.append(f"{region}/{ami} {lacks}")


@contextmanager
def followed(shop: Shop) -> Iterator[Follower]:
    follower = Follower(shop)
    thread = threading.Thread(target=follower.follow, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        follower.stopped.set()
        thread.join(60)
    assert not thread.is_alive()
    assert follower.looked > len(REGIONS)
    assert follower.complaints == []


def test_an_image_is_published_in_three_regions(shop: Shop) -> None:
    home = shop.image()
    publication = shop.publish(home)
    assert (publication.name, publication.digest) == (f"{EAST}/{home}", home)
    assert publication.tags == (
        f"/image-factory/{shop.target}/debian-12/stack-1-{f'key-of-{shop.target}'[:12]}/image_id",
        shop.latest,
    )
    for region, ami in shop.family(home).items():
        assert shop.lacks(region, ami) == ""
        for name in publication.tags:
            assert shop.pointer(region, name) == ami
        image = shop.aws.describe(ami, region)
        assert image["DeregistrationProtection"] == "enabled-without-cooldown"
        assert image["DeprecationTime"]
        (snapshot,) = snapshots_of(image)
        west = shop.aws("ec2", region)
        tags = tags_of(west.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0])
        assert shop.tags().items() <= tags.items()
        assert shop.tags().items() <= tags_of(image).items()
        answer = west.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
        assert answer["CreateVolumePermissions"] == [{"UserId": FRIEND}]


def test_parameters_come_last_and_the_moving_ones_after_all_others(shop: Shop, proxy: Proxy) -> None:
    shop.publish(shop.image())
    changing = [call for call in proxy.calls if call.mutating]
    written = [call.parameters["Name"].rsplit("/", 2)[1] for call in changing if call.service == "ssm"]
    assert [call.service for call in changing[-6:]] == ["ssm"] * 6
    assert (len(written), written[3:]) == (6, ["latest"] * 3)
    assert "latest" not in written[:3]
    assert all(call.parameters["DataType"] == "aws:ec2:image" for call in changing[-6:])


def test_what_is_published_is_not_published_again(shop: Shop, proxy: Proxy) -> None:
    home = shop.image()
    publication = shop.publish(home)
    before = len(proxy.mutating)
    assert replace(shop.publish(home), seconds=0) == replace(publication, seconds=0)
    assert shop.publisher(None).holds(publication)
    assert proxy.mutating[before:] == []


def test_a_publication_does_not_hold_when_anything_of_it_is_gone(shop: Shop) -> None:
    home = shop.image()
    publication = shop.publish(home)
    west = shop.family(home)[WEST]
    publisher = shop.publisher(None)
    assert not publisher.holds(replace(publication, name=f"{WEST}/{home}"))
    assert not publisher.holds(replace(publication, tags=()))
    permission = {"ImageId": west, "LaunchPermission": {"Remove": [{"UserId": FRIEND}]}}
    shop.aws("ec2", WEST).modify_image_attribute(**permission)
    assert not publisher.holds(publication)
    shop.publish(home)
    assert publisher.holds(publication)
    shop.aws("ssm", IRELAND).delete_parameter(Name=shop.latest)
    assert not publisher.holds(publication)
    shop.publish(home)
    newer = shop.image(key="another-key-of-it")
    shop.publish(newer, key="another-key-of-it")
    assert not publisher.holds(publication), "the newest is another"
    assert shop.pointer(EAST, publication.tags[0]) == home, "its own name stays"


def test_a_date_of_deprecation_that_somebody_set_stays(shop: Shop) -> None:
    home = shop.image()
    shop.publish(home)
    date = shop.aws.describe(home)["DeprecationTime"]
    with shop.run() as run:
        publisher = shop.publisher(run)
        later = replace(publisher, settings=replace(shop.settings, deprecate_after_days=900))
        later.publish_image(home, shop.tags())
    assert shop.aws.describe(home)["DeprecationTime"] == date


DEEDS = {
    "throttled": Disturbance(code="RequestLimitExceeded", status=503, count=2, mutating=True),
    "server errors": Disturbance(code="InternalError", status=500, count=2, first=3),
    "copy answered and lost": Disturbance(action="CopyImage", drop="after"),
    "parameter written and lost": Disturbance(action="PutParameter", drop="after", count=2),
    "sharing lost unheard": Disturbance(action="ModifyImageAttribute", drop="before"),
    "slow": Disturbance(action="DescribeImages", delay_s=0.3, count=6),
}


@pytest.mark.parametrize("name", DEEDS)
def test_what_passes_by_itself_is_ridden_out(shop: Shop, proxy: Proxy, name: str) -> None:
    old = shop.image(key="old-key-old-key")
    shop.publish(old, key="old-key-old-key")
    home = shop.image()
    with followed(shop) as follower:
        proxy.disturb(DEEDS[name])
        shop.publish(home)
    assert any(call.disturbed for call in proxy.calls)
    assert follower.seen[EAST] <= {old, home}
    assert {region: shop.pointer(region) for region in REGIONS} == shop.family(home)


FAULTS = {
    "throttled for long": (Disturbance(code="RequestLimitExceeded", status=503, count=0), PublishError),
    "refused": (Disturbance(action="CopyImage", region=WEST, code="UnauthorizedOperation"), MissingError),
    "expired": (Disturbance(action="CreateTags", code="ExpiredToken", count=0), MissingError),
    "one region fails": (Disturbance(action="CopyImage", region=IRELAND, code="InternalError"), PublishError),
    "a parameter is lost": (Disturbance(action="PutParameter", first=4, code="InternalError"), PublishError),
    "never verified": (
        Disturbance(action="DescribeImageAttribute", code="InternalFailure", count=0, region=WEST),
        PublishError,
    ),
}


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("name", FAULTS)
def test_a_publication_that_failed_goes_on_where_it_was(shop: Shop, proxy: Proxy, name: str) -> None:
    fault, kind = FAULTS[name]
    old = shop.image(key="old-key-old-key")
    shop.publish(old, key="old-key-old-key")
    home = shop.image()
    with followed(shop):
        proxy.disturb(fault)
        with pytest.raises(kind) as caught:
            shop.publish(home)
        assert caught.value.hint
        proxy.calm()
        shop.publish(home)
    assert {region: shop.pointer(region) for region in REGIONS} == shop.family(home)


def test_a_copy_that_fails_in_one_region_is_removed_and_made_again(
    shop: Shop, aws: Clients, metal: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.errors import BuildError
    from tests.support.rehearsal import Metal

    old = shop.image(key="old-key-old-key")
    shop.publish(old, key="old-key-old-key")
    home = shop.image()
    good, failures = Metal.copy, itertools.count()

    def copy(self: Metal, source: str, snapshot: str) -> None:
        if next(failures) == 0:
            raise BuildError("the disk is full")
        good(self, source, snapshot)

    monkeypatch.setattr(Metal, "copy", copy)
    with followed(shop):
        with pytest.raises(PublishError, match="failed: the disk is full"):
            shop.publish(home)
        assert [shop.pointer(region) for region in REGIONS] == list(shop.family(old).values())
        states = [len(shop.copies(home, region)) for region in (WEST, IRELAND)]
        assert sorted(states) == [0, 1], "the failed one is gone, the other stays"
        shop.publish(home)
    assert {region: shop.pointer(region) for region in REGIONS} == shop.family(home)


def test_a_copy_that_stays_pending_is_not_published_and_waited_for_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.rehearsal.ec2.cloud import Cloud

    old = shop.image(key="old-key-old-key")
    shop.publish(old, key="old-key-old-key")
    home = shop.image()
    with followed(shop):
        monkeypatch.setattr(Cloud, "pending_s", 3.0)
        with pytest.raises(PublishError, match="still pending"):
            shop.publish(home, copy_s=0.5)
        assert shop.pointer(EAST) == old
        first = shop.family(home)
        shop.publish(home)
    assert shop.family(home) == first, "no second copy"
    assert {region: shop.pointer(region) for region in REGIONS} == first


def test_an_interrupted_wait_ends_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder.rehearsal.ec2.cloud import Cloud

    home = shop.image()
    monkeypatch.setattr(Cloud, "pending_s", 600.0)
    with shop.run() as run:
        publisher = shop.publisher(run, copy_s=600)
        threading.Timer(0.5, run.cancelled.set).start()
        with pytest.raises(Interrupted):
            publisher.publish_image(home, shop.tags())
    assert shop.pointer(EAST) == ""


def test_every_copy_is_in_the_journal_before_it_is_asked_for(shop: Shop, proxy: Proxy) -> None:
    home = shop.image()
    known: dict[str, list[journal.Thing]] = {}
    with shop.run() as run:

        def look(call: object) -> None:
            known[call.region] = journal.read(shop.workspace, run.name)  # type: ignore[attr-defined]

        proxy.disturb(Disturbance(action="CopyImage", kill="before", callback=look, count=0))
        shop.publisher(run).publish_image(home, shop.tags())
        things = journal.read(shop.workspace, run.name)
    assert set(known) == {WEST, IRELAND}
    for region, before in known.items():
        assert ("copy", "") in [(one.kind, one.id) for one in before if one.region == region]
    assert {one.region: one.id for one in things} == {
        region: ami for region, ami in shop.family(home).items() if region != EAST
    }


def test_organizations_and_their_units_are_told_apart() -> None:
    unit = "arn:aws:organizations::123456789012:ou/o-abc1234567/ou-ab12-cdefghij"
    sharing = Sharing(accounts=(FRIEND,), organizations=(ORGANIZATION, unit))
    assert sharing.permissions == [
        {"UserId": FRIEND},
        {"OrganizationArn": ORGANIZATION},
        {"OrganizationalUnitArn": unit},
    ]


def test_what_is_encrypted_with_awss_own_key_is_not_shared(shop: Shop) -> None:
    image = shop.image()
    encrypted = shop.aws.ec2.copy_image(
        SourceImageId=image, SourceRegion=EAST, Name=f"{shop.target}-encrypted", Encrypted=True
    )["ImageId"]
    with pytest.raises(PublishError, match="cannot be shared"):
        shop.publish(encrypted)
    with shop.run() as run:
        publisher = shop.publisher(run)
        by_id = replace(publisher, settings=replace(shop.settings, kms_key="arn:aws:kms:us-east-1:1:key/k"))
        with pytest.raises(PublishError, match="other regions do not know the key"):
            by_id.publish_image(encrypted, shop.tags())


@dataclass
class Death:
    """The end of a process at its `number`th call that counts: it is carried out, and none comes after it."""

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


@pytest.mark.usefixtures("once")
def test_killed_at_every_boundary_it_comes_to_one_image_for_each_region(shop: Shop, proxy: Proxy) -> None:
    """What a process had done that was killed after each changing call, or after each call at all.

    A call that is carried out and not answered, and none after it: that is what the account sees of a kill.
    """
    every = os.environ.get("EVERY_BOUNDARY") == "1"
    old = shop.image(key="old-key-old-key")
    shop.publish(old, key="old-key-old-key")
    tried = 0
    with followed(shop) as follower:
        for number in itertools.count(1):
            key = f"{number:04}-key-of-it-{shop.target}"
            home = shop.image(key=key)
            dead = Death(number, mutating=None if every else True)
            proxy.disturb(*dead.disturbances)
            with suppress(FactoryError):
                shop.publish(home, key=key)
            proxy.calm()
            if not dead.happened:
                break
            tried += 1
            shop.publish(home, key=key)
            family = shop.family(home)
            assert {region: shop.pointer(region) for region in REGIONS} == family, number
            assert [shop.lacks(region, ami) for region, ami in family.items()] == [""] * 3
    print(f"{tried} boundaries, {follower.looked} looks at the parameters")
    assert tried > 20


CHILD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from builder.adapters.host.workspace import Workspace
from tests.support.rehearsed_account import Shop
endpoint, folder, target, ami, key = sys.argv[1:]
workspace = Workspace(home=Path(folder) / "home", out=Path(folder) / "out")
Shop(None, SimpleNamespace(endpoint=endpoint), workspace, target).publish(ami, key=key)
"""


def test_a_process_that_is_killed_is_followed_by_one_that_ends_its_work(
    shop: Shop, proxy: Proxy, tmp_path: Path
) -> None:
    """SIGKILL, while calls are under way: what is remembered is in the account, and in a journal."""
    old = shop.image(key="old-key-old-key")
    shop.publish(old, key="old-key-old-key")
    with followed(shop):
        for number in (2, 8, 14, 20):
            key = f"{number:04}-key-of-it-{shop.target}"
            home = shop.image(key=key)
            argv = [sys.executable, "-c", CHILD, proxy.endpoint, str(tmp_path), shop.target, home, key]
            reached = threading.Event()
            proxy.disturb(
                Disturbance(
                    mutating=True, first=number, kill="after", callback=lambda _, event=reached: event.set()
                ),
                # What is under way when the process ends is carried out all the same, later.
                Disturbance(mutating=True, first=number + 1, count=0, delay_s=1.0),
            )
            with subprocess.Popen(argv, cwd=ROOT) as child:
                assert reached.wait(120)
                child.kill()
            assert child.returncode == -signal.SIGKILL
            proxy.calm()
            (dead,) = dead_runs(shop.workspace)
            assert all(one.kind == "copy" for one in journal.read(shop.workspace, dead))
            forget_run(shop.workspace, dead)
            shop.publish(home, key=key)
            assert {region: shop.pointer(region) for region in REGIONS} == shop.family(home)
