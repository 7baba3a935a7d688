"""Checkpoints of AMI builds in a rehearsed account, with a double of Packer that makes an image at once."""

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami import family, janitor, journal, kept, maker
from builder.adapters.ami.finder import AmiFinder
from builder.adapters.ami.maker import AmiMaker
from builder.adapters.aws.account import specifications, tags_of
from builder.adapters.host.process import Finished
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.app import leftovers
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.lanes.ami import AmiLane
from builder.app.lanes.lane import Request
from builder.app.leftovers import Limits, find_leftovers
from builder.checkpoints import checkpoints
from builder.cli.main import main
from builder.errors import BuildError, MissingError, UsageError
from builder.events import Event, Stream
from builder.marks import BUILDER_TAG, CHECKPOINT_TAG, DISK_TAG, KEY_TAG, LAYER_TAG, RUN_TAG, TARGET_TAG
from builder.model import Artifact, Plan
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings
from builder.sources import digest_of
from tests.support.rehearsal import EAST, REGIONS, ROOT, Clients
from tests.support.rehearsed_account import AmiAccount, environment
from tests.unit.test_clean import FakeEngine


@dataclass
class PackerDouble:
    """Makes an image with the tags that the variables name, and records the variables of each build."""

    aws: Clients
    jobs: list[Mapping[str, Any]] = field(default_factory=list)

    def __call__(self, template: Path, *, variables: Path) -> "PackerDouble":
        self.jobs.append(json.loads(variables.read_text()))
        return self

    def build(self, **_: Any) -> Finished:
        job = self.jobs[-1]
        instance = self.aws.run(job["source_ami"])["InstanceId"]
        tags = specifications(job["tags"], ["image", "snapshot"])
        image = self.aws.ready_image(instance, Name=job["ami_name"], TagSpecifications=tags)
        self.aws.ec2.terminate_instances(InstanceIds=[instance])
        built = {"artifact_id": f"{job['region']}:{image}", "custom_data": {"run": job["run"]}}
        Path(job["manifest"]).write_text(json.dumps({"builds": [built]}))
        return Finished(code=0, output="", command="packer build")

    def roles(self, number: int) -> list[str]:
        table = json.loads(Path(self.jobs[number]["ansible"]["variables_file"]).read_text())
        return list(table["image_components"])


@pytest.fixture
def double(aws: Clients, packer: Path, monkeypatch: pytest.MonkeyPatch) -> PackerDouble:
    created = PackerDouble(aws)
    monkeypatch.setattr(maker, "Packer", created)
    return created


@cache
def planned() -> Plan:
    return Context(ROOT).plan("ami-gpu")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan with a checkpoint after CUDA; its layer keys are unique, because tests share the account."""
    found = planned()
    layers = (dataclasses.replace(layer, key=digest_of([str(tmp_path), layer.key])) for layer in found.layers)
    return dataclasses.replace(found, layers=tuple(layers))


def changed(plan: Plan) -> Plan:
    """Return the plan after a change of its last layer."""
    *below, last = plan.layers
    return dataclasses.replace(plan, layers=(*below, dataclasses.replace(last, key=digest_of([last.key]))))


def make(
    ami_account: AmiAccount, run: Run, plan: Plan, events: Stream | None = None, **more: Any
) -> Artifact:
    source = ami_account.aws.describe(ami_account.aws.debian())
    return AmiMaker(
        account=ami_account.account,
        run=run,
        root=ROOT,
        events=events or Stream(),
        commit="",
        mirror=lambda _: Mirror(),
        source=lambda _: source,
        **{"settings": AwsSettings(), **more},
    ).make(plan)


def a_checkpoint(ami_account: AmiAccount, plan: Plan, run: str = "a-run", year: int = 0) -> str:
    """Create a checkpoint of a plan as a build does; `year` sets its creation date."""
    from moto.ec2 import ec2_backends

    (checkpoint,) = checkpoints(plan)
    tags = kept.tags_for(plan, checkpoint, ami_account.tags(run=run), AwsSettings())
    found = specifications(tags, ["image", "snapshot"])
    instance = ami_account.aws.run()["InstanceId"]
    made = ami_account.aws.ready_image(instance, TagSpecifications=found)
    ami_account.aws.ec2.terminate_instances(InstanceIds=[instance])
    kept.complete(ami_account.account, made, checkpoint, seconds=60)
    if year:
        ec2_backends["123456789012"][EAST].amis[made].creation_date = datetime(year, 1, 1, tzinfo=UTC)
    return made


def usable(ami_account: AmiAccount, plan: Plan, settings: AwsSettings | None = None) -> str:
    """Return the checkpoint that a build of a plan would start from; "" for none."""
    found = kept.deepest(ami_account.account, plan, checkpoints(plan), settings or AwsSettings())
    return found.ami if found else ""


def test_cold_build_makes_a_checkpoint_and_continues_from_it(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan
) -> None:
    (checkpoint,) = checkpoints(plan)
    with ami_account.run() as run:
        made = make(ami_account, run, plan)
        first, second = double.jobs
        assert double.roles(0) == [*checkpoint.components, "cleanup"]
        assert double.roles(1) == list(plan.components[len(checkpoint.components) :])
        entries = [(entry.kind, entry.id) for entry in journal.read(run.workspace, run.name)]
    below, image = made.layers
    assert (first["source_ami"], second["source_ami"]) == (ami_account.aws.debian(), below.image)
    assert entries == [("checkpoint", below.image), ("image", image.image)]
    assert (below.name, below.key, image.reason) == (
        "cuda",
        checkpoint.key,
        f"from checkpoint {below.image} after layer cuda",
    )
    tags = tags_of(ami_account.aws.describe(below.image))
    assert (tags[CHECKPOINT_TAG], tags[LAYER_TAG]) == (checkpoint.key, "ami-gpu/cuda")
    assert not tags.keys() & {TARGET_TAG, KEY_TAG}, "it is no AMI of a target"
    found = AmiFinder(ami_account.account).find(plan)
    assert found is not None
    assert found.reference == made.reference == image.image


def test_changed_last_layer_is_built_from_the_checkpoint(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan
) -> None:
    checkpoint = a_checkpoint(ami_account, plan)
    events: list[Event] = []
    with ami_account.run() as run:
        made = make(ami_account, run, changed(plan), Stream(events.append))
    (job,) = double.jobs
    assert job["source_ami"] == checkpoint
    assert [(layer.name, layer.outcome) for layer in made.layers] == [("cuda", "reused"), ("image", "built")]
    ends = [(event.step, event.fields["outcome"]) for event in events if event.name == "step.end"]
    assert ends == [("ami-gpu/cuda", "reused"), ("ami-gpu/image", "built")]


def test_deepest_checkpoint_is_used_and_missing_deeper_checkpoints_are_made(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan
) -> None:
    marked = tuple(
        dataclasses.replace(layer, checkpoint=layer.name in ("host", "driver", "cuda"))
        for layer in plan.layers
    )
    three = dataclasses.replace(plan, layers=marked)
    host, driver, cuda = checkpoints(three)
    without_cuda = tuple(dataclasses.replace(layer, checkpoint=layer.name == "driver") for layer in marked)
    with ami_account.run() as run:
        first = make(ami_account, run, dataclasses.replace(plan, layers=without_cuda))
    with ami_account.run() as run:
        made = make(ami_account, run, changed(three))
    assert [(layer.name, layer.outcome) for layer in made.layers] == [
        ("driver", "reused"),
        ("cuda", "built"),
        ("image", "built"),
    ]
    assert double.jobs[2]["source_ami"] == first.layers[0].image
    found = kept.deepest(ami_account.account, plan, (host, driver, cuda), AwsSettings())
    assert found is not None
    assert found.ami == made.layers[1].image
    assert not ami_account.account.images({CHECKPOINT_TAG: host.key}), "a build from driver needs no host"


def shrunk(plan: Plan) -> Plan:
    assert plan.target.ami is not None
    shape = dataclasses.replace(plan.target.ami, volume_gib=4)
    return dataclasses.replace(plan, target=dataclasses.replace(plan.target, ami=shape))


@pytest.mark.parametrize(
    ("without_tag", "settings", "change"),
    [
        (BUILDER_TAG, AwsSettings(), changed),
        (RUN_TAG, AwsSettings(), changed),
        (DISK_TAG, AwsSettings(), changed),
        (CHECKPOINT_TAG, AwsSettings(), changed),
        ("", AwsSettings(encrypt=True), changed),
        ("", AwsSettings(encrypt=True, kms_key="alias/a"), changed),
        ("", AwsSettings(), lambda plan: shrunk(changed(plan))),
    ],
    ids=["no builder", "no run", "no disk", "incomplete", "encrypted", "another key", "too large"],
)
def test_unsuitable_checkpoint_is_not_used(
    ami_account: AmiAccount,
    plan: Plan,
    without_tag: str,
    settings: AwsSettings,
    change: Callable[[Plan], Plan],
) -> None:
    made = a_checkpoint(ami_account, plan)
    assert usable(ami_account, changed(plan)) == made
    if without_tag:
        ami_account.aws.ec2.delete_tags(Resources=[made], Tags=[{"Key": without_tag}])
    assert usable(ami_account, change(plan), settings) == ""


def test_checkpoint_that_is_not_available_is_not_used(ami_account: AmiAccount, plan: Plan) -> None:
    ami_account.aws.ec2.disable_image(ImageId=a_checkpoint(ami_account, plan))
    assert usable(ami_account, plan) == ""


@pytest.mark.parametrize(
    ("more", "sources"),
    [({"use_checkpoints": False}, ["debian"]), ({"rebuild": ("cuda",)}, ["debian", "new"])],
)
def test_options_no_checkpoints_and_rebuild_ignore_existing_checkpoints(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan, more: dict[str, Any], sources: list[str]
) -> None:
    old = a_checkpoint(ami_account, plan, year=2020)
    with ami_account.run() as run:
        made = make(ami_account, run, plan, **more)
    names = {"debian": ami_account.aws.debian(), "new": made.layers[0].image}
    assert [job["source_ami"] for job in double.jobs] == [names[name] for name in sources]
    assert old not in {layer.image for layer in made.layers}
    assert usable(ami_account, plan) == (old if "use_checkpoints" in more else names["new"])


def test_builds_that_need_the_same_checkpoint_make_it_once(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan
) -> None:
    with ami_account.run() as first, ami_account.run() as second:
        key = checkpoints(plan)[0].key[:16]
        events: list[Event] = []
        waiting = threading.Event()

        def on_event(event: Event) -> None:
            events.append(event)
            if event.name == "note":
                waiting.set()

        other = threading.Thread(
            target=make, args=(ami_account, second, changed(plan), Stream(on_event)), daemon=True
        )
        with first.locked(f"checkpoint-{key}"):
            other.start()
            assert waiting.wait(60)
            made = a_checkpoint(ami_account, plan, first.name)
        other.join(60)
    (job,) = double.jobs
    assert job["source_ami"] == made
    assert [event.text for event in events if event.name == "note"] == [
        f"ami-gpu: run {first.name} makes the checkpoint cuda; waiting for it"
    ]


def test_checkpoint_that_was_not_completed_is_not_used_and_is_deleted(
    ami_account: AmiAccount, proxy: Proxy, double: PackerDouble, plan: Plan
) -> None:
    """State after a kill: EC2 has the image, but the builder has not marked the image as complete."""
    proxy.disturb(Disturbance(action="CreateTags", code="UnauthorizedOperation", count=0))
    with ami_account.run() as dead:
        with pytest.raises(MissingError, match="tagging"):
            make(ami_account, dead, plan)
        (entry,) = [each for each in journal.read(dead.workspace, dead.name) if each.kind == "checkpoint"]
        assert entry.id == ""
    proxy.clear_disturbances()
    assert usable(ami_account, plan) == ""
    (image,) = ami_account.account.images({RUN_TAG: dead.name})
    removed = janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=True)
    assert image["ImageId"] in removed
    assert ami_account.account.images({RUN_TAG: dead.name}) == []
    assert journal.runs(ami_account.workspace) == []


@pytest.mark.parametrize("keep_complete", [True, False])
def test_complete_checkpoint_survives_the_cleanup_of_its_run(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan, keep_complete: bool
) -> None:
    """The checkpoint also survives if the run was killed before its journal named the image."""
    with ami_account.run() as dead:
        made = make(ami_account, dead, plan)
        journal.open_entry(dead, ami_account.account, "checkpoint", double.jobs[0]["ami_name"])
        folder = dead.workspace.out / "receipts" / "ami-gpu"
        folder.mkdir(parents=True)
        receipt = {"format": 1, "artifact": {"reference": made.reference}, "plan": {}}
        (folder / "x.json").write_text(json.dumps(receipt))
    assert (
        janitor.sweep(ami_account.workspace, ami_account.account, dead.name, keep_complete=keep_complete)
        == []
    )
    assert usable(ami_account, plan) == made.layers[0].image
    assert journal.runs(ami_account.workspace) == []


@pytest.mark.parametrize("encrypt", [True, False])
def test_packer_gets_a_kms_key_only_for_encrypted_disks(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan, encrypt: bool
) -> None:
    settings = AwsSettings(encrypt=encrypt, kms_key="alias/images")
    with ami_account.run() as run:
        make(ami_account, run, plan, settings=settings, use_checkpoints=False)
    volume = double.jobs[0]["volume"]
    assert (volume["encrypted"], volume["kms_key"]) == (encrypt, "alias/images" if encrypt else "")


def test_failed_build_keeps_its_complete_checkpoint(
    ami_account: AmiAccount, double: PackerDouble, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = double.build

    def build(**more: Any) -> Finished:
        return builds(**more) if len(double.jobs) == 1 else Finished(code=1, output="", command="")

    monkeypatch.setattr(double, "build", build)
    message = "Packer did not create an image of 'ami-gpu'"
    with ami_account.run() as run, pytest.raises(BuildError, match=message):
        make(ami_account, run, plan)
    janitor.sweep(ami_account.workspace, ami_account.account, run.name, keep_complete=True)
    assert usable(ami_account, plan)


def test_checkpoint_is_neither_listed_nor_shared_published_or_retired(
    ami_account: AmiAccount, plan: Plan, proxy: Proxy
) -> None:
    made = a_checkpoint(ami_account, plan)
    listed = {member.ref.ami for member in family.all_of(ami_account.account, REGIONS)}
    assert made not in listed
    calls = len(proxy.mutating)
    with pytest.raises(UsageError, match=f"{made} is a checkpoint of ami-gpu/cuda, which only builds use"):
        family.retire(ami_account.account, made, REGIONS, prefix="/x", force=True, say=lambda _: None)
    with pytest.raises(UsageError, match="is a checkpoint"):
        family.family(ami_account.account, made, REGIONS)  # every verb on a single AMI calls it
    assert proxy.mutating[calls:] == []


@pytest.fixture
def site(ami_account: AmiAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site file of `builder` calls in the rehearsed account."""
    file = tmp_path / "site.toml"
    file.write_text("[checkpoints]\nkeep_last = 1\n")
    for name, value in environment(ami_account.proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUILDER_SITE_FILE", str(file))
    monkeypatch.setattr(Context, "workspace", ami_account.workspace)
    # These tests need only checkpoints, and computing the layer keys of all plans takes long.
    monkeypatch.setattr(leftovers, "_layers", lambda *_: ())
    monkeypatch.setattr(leftovers, "_blobs", lambda *_: ())
    return file


def removable(everything: bool = False) -> dict[str, Callable[[], object]]:
    """Return the functions that delete the checkpoints listed by `builder clean`, by the item's name."""
    context = Context(ROOT, site_name="aws")
    engine: Any = FakeEngine({}, {})
    found = find_leftovers(context, engine, Limits(everything=everything, keep_last=99), is_idle=True)
    return {item.name: item.remove for item in found if item.name.startswith("checkpoint ")}


def test_clean_keeps_the_newest_checkpoints_of_each_layer(
    ami_account: AmiAccount, plan: Plan, site: Path
) -> None:
    old, new, foreign = (a_checkpoint(ami_account, plan, year=year) for year in (2020, 2021, 2022))
    other = {"Key": BUILDER_TAG, "Value": "f" * 32}
    ami_account.aws.ec2.create_tags(Resources=[foreign], Tags=[other])
    (snapshot,) = [
        disk["Ebs"]["SnapshotId"] for disk in ami_account.aws.describe(foreign)["BlockDeviceMappings"]
    ]
    ami_account.aws.ec2.create_tags(Resources=[snapshot], Tags=[other])
    found = removable()
    assert list(found) == [f"checkpoint {old} of ami-gpu/cuda"]
    found[f"checkpoint {old} of ami-gpu/cuda"]()
    assert removable() == {}
    site.write_text("[checkpoints]\nkeep_last = 0\n")
    assert list(removable()) == list(removable(everything=True)) == [f"checkpoint {new} of ami-gpu/cuda"]
    images = {image["ImageId"] for image in ami_account.account.images_with_tag(CHECKPOINT_TAG)}
    assert {new, foreign} <= images
    assert old not in images


def test_clean_finishes_an_interrupted_deletion(
    ami_account: AmiAccount, proxy: Proxy, plan: Plan, site: Path
) -> None:
    made = a_checkpoint(ami_account, plan)
    (disk,) = ami_account.aws.describe(made)["BlockDeviceMappings"]
    site.write_text("[checkpoints]\nkeep_last = 0\n")
    proxy.disturb(Disturbance(action="DeleteSnapshot", code="InternalError", count=0))
    with pytest.raises(BuildError, match="deleting"):
        removable()[f"checkpoint {made} of ami-gpu/cuda"]()
    proxy.clear_disturbances()
    (name,) = found = removable()
    assert name == f"checkpoint {disk['Ebs']['SnapshotId']} of ami-gpu/cuda"
    found[name]()
    assert removable() == {}


def test_clean_without_access_to_the_account_keeps_checkpoints(
    ami_account: AmiAccount,
    site: Path,
    proxy: Proxy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ami_account.builder
    proxy.disturb(Disturbance(action="DescribeImages", code="UnauthorizedOperation", count=0))
    assert removable() == {}
    assert "checkpoints of AMIs are kept: listing images: UnauthorizedOperation" in capsys.readouterr().err


def test_plan_names_the_checkpoint_the_time_it_saves_and_its_price(
    ami_account: AmiAccount,
    site: Path,
    proxy: Proxy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SiteAccount, "source", lambda *_: {"ImageId": "ami-1", "Name": "base"})
    site.write_text('[aws]\nsource_cidrs = ["203.0.113.0/24"]\n')
    plan = Context(ROOT, site_name="aws").plan("ami-gpu")
    request = Request()
    lane = AmiLane(Context(ROOT, site_name="aws"), threading.Event())
    before = lane.outlook(plan, request)
    assert before is not None
    assert (before.image, before.makes) == ("", ("cuda",))
    lane.confirm([plan], Request(yes=True))
    asked = capsys.readouterr().err
    assert "from ami-1 (base)," in asked
    assert "a checkpoint after layer cuda with its snapshot" in asked
    made = a_checkpoint(ami_account, plan)
    kept.complete(ami_account.account, made, checkpoints(plan)[0], seconds=720)
    after = lane.outlook(plan, request)
    assert after is not None
    assert (after.image, after.layer, after.saves_s) == (made, "cuda", 720)
    assert lane.missing_layers(plan, request) == ["image"]
    lane.confirm([plan], Request(yes=True))
    assert f"from checkpoint {after.image} after layer cuda," in capsys.readouterr().err
    main(["plan", "ami-gpu", "--site", "aws", "--root", str(ROOT)])
    shown = capsys.readouterr().out
    assert f"starts from {after.image} after layer cuda, saves about 12 min" in shown
    assert "80 GiB of snapshot, at most 4.00 $ a month in an account" in shown
    states = {
        line.split("\t")[0]: line.split("\t")[3:5] for line in shown.splitlines() if line.count("\t") == 4
    }
    assert states["driver"] == ["reuse", "not needed: a later layer exists"]
    assert states["cuda"] == ["reuse", f"in checkpoint {after.image}"]
    assert states["final"][0] == "build"
    proxy.disturb(Disturbance(action="DescribeImages", code="UnauthorizedOperation", count=0))
    unknown = lane.outlook(plan, request)
    assert unknown is not None
    assert "unknown (listing images: UnauthorizedOperation" in unknown.text
    proxy.clear_disturbances()
    site.write_text("[checkpoints]\nenabled = false\n")
    for found in (
        AmiLane(Context(ROOT, site_name="aws"), threading.Event()).outlook(plan, request),
        lane.outlook(plan, Request(checkpoints=False)),
    ):
        assert found is not None
        assert found.text == ""
