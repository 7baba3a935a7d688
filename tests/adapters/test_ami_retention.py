"""`[aws] keep_last`: `builder clean` deletes older AMIs of a target, and none that is in use."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami import retention
from builder.adapters.ami.permissions import features, policy
from builder.adapters.aws.account import as_tags
from builder.app import leftovers
from builder.app.context import Context
from builder.app.leftovers import Limits, find_leftovers
from builder.errors import BuildError
from builder.marks import SYSTEM_TAG
from builder.rehearsal.authorization import requests_of
from builder.rehearsal.calls import Call, Disturbance
from builder.rehearsal.iam import ALLOWED, evaluate
from builder.rehearsal.proxy import Proxy
from tests.adapters.test_ami_policy import current_tags
from tests.support.rehearsal import EAST, ROOT, WEST
from tests.support.rehearsed_account import AmiAccount, environment
from tests.unit.test_clean import FakeEngine


def images(ami_account: AmiAccount, count: int) -> list[str]:
    """Return unpublished images of the target, oldest first."""
    found = [ami_account.image(key=f"{number:012d}") for number in range(count)]
    for number, image in enumerate(found):
        made_in(EAST, image, 2020 + number)
    return found


def made_in(region: str, ami: str, year: int) -> None:
    from moto.ec2 import ec2_backends

    ec2_backends["123456789012"][region].amis[ami].creation_date = datetime(year, 1, 1, tzinfo=UTC)


@pytest.fixture
def clean(
    ami_account: AmiAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Callable[[], object]]]:
    """A function that returns the deletions of AMIs that `builder clean` lists, by the name of the item."""
    file = tmp_path / "site.toml"
    for name, value in environment(ami_account.proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUILDER_SITE_FILE", str(file))
    monkeypatch.setattr(Context, "workspace", ami_account.workspace)
    monkeypatch.setattr(leftovers, "regions_of", lambda _: (EAST, WEST))  # moto opens each region slowly
    # These tests need only AMIs, and computing the layer keys of all plans takes long.
    monkeypatch.setattr(leftovers, "_layers", lambda *_: ())
    monkeypatch.setattr(leftovers, "_blobs", lambda *_: ())

    def listed(keep_last: int) -> dict[str, Callable[[], object]]:
        file.write_text(f"[aws]\nkeep_last = {keep_last}\n")
        engine: Any = FakeEngine({}, {})
        found = find_leftovers(Context(ROOT, site_name="aws"), engine, Limits(), is_idle=True)
        return {item.name: item.remove for item in found if ami_account.target in item.name}

    return listed


def named(ami_account: AmiAccount, region: str, amis: Sequence[str]) -> list[str]:
    return [f"AMI {region}/{ami} of {ami_account.target}" for ami in amis]


def test_older_amis_are_listed_and_deleted_with_their_snapshots(
    ami_account: AmiAccount, clean: Callable[..., dict[str, Callable[[], object]]]
) -> None:
    oldest, old, new, newest = images(ami_account, 4)
    other_system = ami_account.image()
    ami_account.aws.ec2.create_tags(Resources=[other_system], Tags=as_tags({SYSTEM_TAG: "ubuntu-24.04"}))
    assert clean(0) == {}, "without a limit all AMIs stay"
    found = clean(2)
    assert list(found) == named(ami_account, EAST, [old, oldest])
    (disk,) = ami_account.aws.describe(old)["BlockDeviceMappings"]
    for remove in found.values():
        remove()
    assert clean(2) == {}
    kept = {image["ImageId"] for image in ami_account.account.images({})}
    assert {new, newest, other_system} <= kept
    assert not {oldest, old} & kept
    snapshots = ami_account.aws.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert disk["Ebs"]["SnapshotId"] not in {snapshot["SnapshotId"] for snapshot in snapshots}


def test_amis_in_use_are_kept_and_named(
    ami_account: AmiAccount,
    clean: Callable[..., dict[str, Callable[[], object]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    published, started, in_template, promoted, unused, _ = images(ami_account, 6)
    ec2 = ami_account.aws.ec2
    ami_account.publish(published, key=f"{0:012d}")
    instance = ami_account.aws.run(started)["InstanceId"]
    name = f"nodes-of-{ami_account.target}"
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": in_template})
    own = f"/image-factory/{ami_account.target}/production"
    ami_account.aws("ssm").put_parameter(Name=own, Value=promoted, Type="String")
    found = clean(1)
    assert list(found) == named(ami_account, EAST, [unused])
    said = capsys.readouterr().err
    for ami, use in (
        (published, f"{ami_account.latest} points to it"),
        (started, f"instance {instance} was started from it"),
        (in_template, f"launch template {name} names it"),
        (promoted, f"{own} points to it"),
    ):
        assert f"AMI {EAST}/{ami} of {ami_account.target} is kept: {use}" in said
    later = ami_account.aws.run(unused)["InstanceId"]
    with pytest.raises(BuildError, match=f"{unused} was not deleted: instance {later} was started from it"):
        found[f"AMI {EAST}/{unused} of {ami_account.target}"]()
    ec2.terminate_instances(InstanceIds=[instance, later])
    ec2.delete_launch_template(LaunchTemplateName=name)


def test_copies_count_in_their_own_region_and_versioned_parameters_are_deleted(
    ami_account: AmiAccount, clean: Callable[..., dict[str, Callable[[], object]]]
) -> None:
    first, second = images(ami_account, 2)
    old = ami_account.publish(first, key=f"{0:012d}")
    ami_account.publish(second, key=f"{1:012d}")
    (copy,) = ami_account.copies(first, WEST)
    made_in(WEST, copy["ImageId"], 2020)
    found = clean(1)
    assert list(found) == [
        *named(ami_account, EAST, [first]),
        *named(ami_account, WEST, [copy["ImageId"]]),
    ]
    versioned = next(name for name in old.tags if "/latest/" not in name)
    assert ami_account.pointer(WEST, versioned)
    for remove in found.values():
        remove()
    assert not ami_account.pointer(WEST, versioned)
    assert ami_account.pointer(EAST) == second
    assert clean(1) == {}


def test_an_interrupted_deletion_is_continued(
    ami_account: AmiAccount, proxy: Proxy, clean: Callable[..., dict[str, Callable[[], object]]]
) -> None:
    old, _ = images(ami_account, 2)
    (disk,) = ami_account.aws.describe(old)["BlockDeviceMappings"]
    proxy.disturb(Disturbance(action="DeleteSnapshot", code="InternalError", count=0))
    with pytest.raises(BuildError, match="deleting"):
        clean(1)[f"AMI {EAST}/{old} of {ami_account.target}"]()
    proxy.clear_disturbances()
    (name,) = found = clean(1)
    assert name == f"snapshot {EAST}/{disk['Ebs']['SnapshotId']} of {ami_account.target}"
    found[name]()
    assert clean(1) == {}


def test_no_ami_is_listed_without_permission_to_see_which_amis_are_in_use(
    ami_account: AmiAccount,
    proxy: Proxy,
    clean: Callable[..., dict[str, Callable[[], object]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    images(ami_account, 2)
    denied = Disturbance(action="DescribeLaunchTemplateVersions", code="UnauthorizedOperation", count=0)
    proxy.disturb(denied)
    assert clean(1) == {}
    assert "AMIs are kept: listing launch templates in us-east-1: Unauth" in capsys.readouterr().err


def test_iam_policy_of_the_site_allows_the_calls_of_keep_last(ami_account: AmiAccount, proxy: Proxy) -> None:
    settings = dataclasses.replace(ami_account.settings, keep_last=1)
    document = policy(features(settings, encryptable=True), settings)
    made = []

    def record(call: Call) -> None:
        made.extend(requests_of(call, lambda name: current_tags(ami_account.aws, name, call.region)))

    images(ami_account, 2)
    proxy.disturb(Disturbance(kill="before", callback=record, count=0))
    (found,) = [
        item
        for item in retention.surplus(ami_account.account, [EAST], settings.parameters, keep_last=1)
        if item.target == ami_account.target
    ]
    found.remove()
    assert {"ec2:DeregisterImage", "ec2:DeleteSnapshot"} <= {request.action for request in made}
    assert [request for request in made if evaluate([document], request) != ALLOWED] == []
