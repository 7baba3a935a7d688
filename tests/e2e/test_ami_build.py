"""An AMI from its target to its receipt, in a rehearsal: Packer, SSH, Ansible, a boot, checks; its faults.

The role is small, all else is what users have. After each test the account is as it was before.
"""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.workspace import Workspace
from builder.rehearsal import session
from builder.rehearsal.calls import Call, Disturbance
from builder.rehearsal.session import Rehearsal
from tests.factory import BOUND_S, Build, Factory
from tests.rehearsal import EAST, Clients, Key
from tests.repository import AMI

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

TARGET = """
summary = "a small machine"
kind = "ami"
system = "debian-12"
stack = "plain-1"
components = ["fabric", "cleanup"]
[variables]
base_greeting = "{greeting}"
"""
CLEANUP = 'summary = "nothing of the build stays"\nlayer = "final"\nrequires = ["base"]\n'
# What must not be found in an image, whatever it was given by.
CANARY = "canary-4f1c9d"
REGIONS = ("us-east-1", "us-west-2", "eu-west-1")


@dataclass
class Shop:
    """A small factory whose AMIs are made in a rehearsal of its own."""

    factory: Factory
    rehearsal: Rehearsal
    before: dict[str, list[str]] = field(default_factory=dict)

    @property
    def aws(self) -> Clients:
        return Clients(self.rehearsal.endpoint)

    def build(self, *words: str, **environment: str) -> Build:
        return self.factory.build("--target", "machine", *words, **environment)

    def account(self) -> dict[str, list[str]]:
        """Everything that a build could leave in the account, by kind."""
        found: dict[str, list[str]] = {}
        for region in REGIONS:
            ec2, ssm = self.aws("ec2", region), self.aws("ssm", region)
            instances = [
                one["InstanceId"]
                for reservation in ec2.describe_instances()["Reservations"]
                for one in reservation["Instances"]
                if one["State"]["Name"] != "terminated"
            ]
            images = ec2.describe_images(Owners=["self"], IncludeDeprecated=True)["Images"]
            snapshots = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
            groups = ec2.describe_security_groups()["SecurityGroups"]
            pages = ssm.get_paginator("describe_parameters").paginate()
            parameters = [one["Name"] for page in pages for one in page["Parameters"]]
            found[region] = [
                *instances,
                *(one["ImageId"] for one in images),
                *(one["SnapshotId"] for one in snapshots),
                *(one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]),
                *(one["GroupId"] for one in groups if one["GroupName"] != "default"),
                *(one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]),
                *(one for one in parameters if not one.startswith("/aws/")),
            ]
        return found

    def left(self) -> list[str]:
        """What is there now and was not before, and what is gone."""
        now, before = self.account(), self.before
        return [f"{region} {one}" for region in now for one in {*now[region]} ^ {*before[region]}]

    def calls(self, after: int = 0) -> list[Call]:
        return self.rehearsal.calls(after=after)

    def retire(self, ami: str) -> None:
        assert self.factory.call("ami", "retire", ami, "--force", "--yes").code == 0


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory, home: Path, root: Path) -> Iterator[Rehearsal]:
    made = prepare(Factory.create(tmp_path_factory.mktemp("first"), home=home, root=root), root)
    up = made.call("rehearse", "up")
    assert up.code == 0, up.stderr
    found = session.find(Workspace(home=home, out=made.out), "default")
    assert found
    yield found
    made.call("rehearse", "down")


def prepare(factory: Factory, root: Path) -> Factory:
    """What a factory needs to make machines."""
    repository = factory.repository
    repository.write(
        "catalog/targets/machine.toml", TARGET.format(greeting=repository.root.parent.name) + AMI
    )
    for name in ("rehearsal.toml", "packer.toml"):
        shutil.copy(root / "catalog" / name, repository.root / "catalog")
    shutil.copytree(root / "packer", repository.root / "packer")
    factory.use_role(root, "cleanup", CLEANUP)
    repository.relock()
    return factory


@pytest.fixture
def shop(factory: Factory, rehearsal: Rehearsal, root: Path) -> Iterator[Shop]:
    made = Shop(prepare(factory, root), rehearsal)
    made.before = made.account()
    yield made
    rehearsal.calm()
    images = made.aws.ec2.describe_images(Owners=["self"])["Images"]
    for ami in {one["ImageId"] for one in images} - set(made.before[EAST]):
        made.factory.call("ami", "retire", ami, "--force", "--yes")
    factory.call("clean", "--yes")


def ami_of(build: Build) -> str:
    assert build.code == 0, build.stderr
    ends = (
        event for event in build.events if event["name"] == "step.end" and event["step"].endswith("/image")
    )
    return str(next(ends)["text"]).partition(",")[0]


# Made, booted, checked


def test_an_image_is_made_once_and_boots_without_a_trace_of_its_making(
    shop: Shop, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORY_CANARY", CANARY)
    done = shop.factory.call("build", "--target", "machine", AWS_SESSION_TOKEN=CANARY)
    assert done.code == 0, done.stderr
    ami = done.stdout.strip()
    assert re.fullmatch(r"ami-[0-9a-f]{8,17}", ami)
    assert "rehearsal on this machine, no AWS account is touched" in done.stderr.splitlines()[0]
    image = shop.aws.describe(ami)
    tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
    assert tags["factory:target"] == "machine"
    assert image["Public"] is False
    # All that was made for the making is gone, and a second build changes nothing.
    left = set(shop.account()[EAST]) - set(shop.before[EAST])
    snapshots = {one["Ebs"]["SnapshotId"] for one in image["BlockDeviceMappings"]}
    assert left == {ami, *snapshots}
    number, runs = shop.calls()[-1].number, shop.factory.run_names()
    again = shop.factory.call("build", "--target", "machine")
    assert again.stdout.strip() == ami
    assert [call for call in shop.calls(number) if call.mutating] == []
    assert shop.factory.run_names() == runs
    _look_at_two_clones(shop, ami, tmp_path)


def _look_at_two_clones(shop: Shop, ami: str, tmp_path: Path) -> None:
    key = Key.create(tmp_path)
    shop.aws.ec2.import_key_pair(KeyName="clones", PublicKeyMaterial=key.public)
    clones = [shop.aws.run(ami, KeyName="clones") for _ in range(2)]
    try:
        seen = []
        for clone in clones:
            address, port = clone["PublicIpAddress"], shop.rehearsal.ssh_port

            def on(command: str, address: str = address, port: int = port) -> str:
                return key.ssh(address, f"sudo sh -c {json.dumps(command)}", port=port)

            seen.append(on("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1])
            assert on("cat /home/admin/.ssh/authorized_keys").split()[1] == key.public.decode().split()[1]
            assert on("ls /root/.ssh 2>/dev/null || true").strip() in ("", "authorized_keys")
            assert on("cat /root/.ssh/authorized_keys 2>/dev/null | wc -l").strip() == "0"
            assert on("ls -A /home/admin | grep history || true").strip() == ""
            left = on("ls -d /root/.ansible /home/admin/.ansible /var/cache/factory-* 2>/dev/null || true")
            assert left.strip() == ""
            found = f"grep -rIl --exclude-dir=proc --exclude-dir=sys {CANARY} /etc /home /root /opt /var /tmp"
            assert on(f"{found} || true").strip() == ""
            assert on("cat /etc/fabric-settled") == "settled"
        assert len(set(seen)) == 2
    finally:
        shop.aws.ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in clones])
        shop.aws.ec2.delete_key_pair(KeyName="clones")


def test_a_role_that_fails_makes_no_image_and_is_named(shop: Shop) -> None:
    shop.factory.repository.write(
        "ansible/roles/fabric/tasks/main.yml",
        '- name: Stop here\n  ansible.builtin.fail:\n    msg: "no such fabric"\n',
    )
    done = shop.build()
    assert done.code == 4
    assert "role 'fabric'" in done.stderr
    assert "no such fabric" in done.stderr
    assert shop.left() == []


def test_an_image_that_fails_its_checks_is_not_a_result_and_is_not_made_again(shop: Shop) -> None:
    shop.factory.repository.write(
        "ansible/roles/base/tests/test_base.py", "def test_greeting(host):\n    assert False, 'never'\n"
    )
    done = shop.build("--publish")
    assert done.code == 5
    made = shop.aws.ec2.describe_images(Owners=["self"])["Images"]
    shop.factory.repository.write(
        "ansible/roles/base/tests/test_base.py",
        "def test_greeting(host):\n    assert host.file('/etc/greeting').exists\n",
    )
    again = shop.build()
    assert ami_of(again) in {one["ImageId"] for one in made}
    parameters = shop.aws("ssm").describe_parameters()["Parameters"]
    assert [one for one in parameters if "machine" in one["Name"]] == []


EVERYTHING = """
[aws]
copy_regions = ["us-west-2"]
share_accounts = ["210987654321"]
deprecate_after_days = 30
"""


@pytest.mark.parametrize(
    ("site", "words"),
    [("", []), ("", ["--publish"]), (EVERYTHING, ["--publish"])],
    ids=["build", "publication", "copies, shares, deprecation"],
)
def test_what_is_planned_is_what_is_called(shop: Shop, tmp_path: Path, site: str, words: list[str]) -> None:
    """No call that changes something is made and was not announced, and none is announced in vain."""
    file = tmp_path / "site.toml"
    file.write_text(site)
    own = {"BUILDER_SITE_FILE": str(file)}
    shown = shop.factory.call("plan", "--target", "machine", "--json", *words, **own)
    (planned,) = json.loads(shown.stdout)
    number = shop.calls()[-1].number
    done = shop.factory.call("build", "--target", "machine", *words, **own)
    assert done.code == 0, done.stderr
    called = {(call.service, call.action) for call in shop.calls(number) if call.mutating}
    assert called == {(one["service"], one["call"]) for one in planned["changing_calls"]}


def test_a_container_goes_to_the_registry_of_the_account(shop: Shop, tmp_path: Path) -> None:
    """ECR takes nothing for a repository that is not there, and nothing without a token."""
    file = tmp_path / "site.toml"
    file.write_text('[registry]\npush = "ecr/training"\n')
    own = {"BUILDER_SITE_FILE": str(file)}
    done = shop.factory.call("build", "--target", "hello", "--publish", **own)
    assert done.code == 0, done.stderr
    name, _, digest = done.stdout.strip().partition("@")
    assert name == f"{shop.rehearsal.registries[EAST]}/training/hello"
    found = shop.aws("ecr").describe_images(repositoryName="training/hello")["imageDetails"]
    assert {one["imageDigest"] for one in found} == {digest}
    number = shop.calls()[-1].number
    assert shop.factory.call("build", "--target", "hello", "--publish", **own).stdout == done.stdout
    assert [call for call in shop.calls(number) if call.mutating] == []
    shop.aws("ecr").delete_repository(repositoryName="training/hello", force=True)


# Faults: one clear message, the right code, and the next build goes on

FAULTS: dict[str, tuple[Disturbance, int, str]] = {
    "quota": (
        Disturbance(action="RunInstances", status=400, code="VcpuLimitExceeded", count=0),
        4,
        "VcpuLimitExceeded",
    ),
    "expired credentials": (
        Disturbance(action="ImportKeyPair", status=400, code="ExpiredToken", count=0),
        3,
        "ExpiredToken",
    ),
    "image that never comes": (
        Disturbance(action="CreateImage", status=500, code="InternalError", count=0),
        4,
        "Packer made no image",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_with_one_message_and_nothing_left(shop: Shop, name: str) -> None:
    disturbance, code, words = FAULTS[name]
    shop.rehearsal.disturb(disturbance)
    done = shop.build()
    shop.rehearsal.calm()
    assert done.code == code, done.stderr
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert shop.left() == []


@pytest.mark.parametrize(
    "disturbance",
    [
        Disturbance(action="RunInstances", status=503, code="RequestLimitExceeded", count=2),
        Disturbance(action="Describe*", status=500, code="InternalError", count=2),
        Disturbance(action="ImportKeyPair", drop="after"),
    ],
    ids=["throttled", "errors of the service", "an answer that is lost"],
)
def test_what_passes_by_itself_is_ridden_out(shop: Shop, disturbance: Disturbance) -> None:
    shop.rehearsal.disturb(disturbance)
    ami = ami_of(shop.build())
    shop.rehearsal.calm()
    shop.retire(ami)
    assert shop.left() == []


# Interrupts and kills

# (event, step) after which the signal comes, over the whole life of a build.
MOMENTS = [
    ("step.start", "machine/image"),
    ("step.task", "machine/image"),
    ("step.start", "machine/checks"),
    ("step.log", "machine/checks"),
]


def send_at(shop: Shop, number: signal.Signals, moment: tuple[str, str], *, skip: int = 0) -> int:
    with shop.factory.started("--target", "machine") as process:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if (event["name"], event["step"]) == moment:
                if skip == 0:
                    break
                skip -= 1
        else:
            pytest.fail(f"the build ended before {moment}")
        process.send_signal(number)
        process.communicate(timeout=BOUND_S)
        return process.returncode


def settle(shop: Shop) -> None:
    """After a kill: `builder clean` removes what is left, whoever is still at work for the dead run."""
    done = shop.factory.call("clean", "--yes")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        *((number, MOMENTS[1]) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
        (signal.SIGINT, MOMENTS[2]),
    ],
)
def test_a_signal_leaves_nothing_at_once(shop: Shop, number: signal.Signals, moment: tuple[str, str]) -> None:
    assert send_at(shop, number, moment) == 130
    if moment[1].endswith("image"):
        assert shop.left() == []
        return
    # The image is complete: the next build goes on with it, and so nothing else may be left.
    images = [one for one in shop.account()[EAST] if one.startswith("ami-")]
    assert not [one for one in shop.account()[EAST] if re.match(r"i-|machine-|sg-|vol-", one)]
    assert ami_of(shop.build()) in images


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(moment).replace("/", "-"))
def test_a_killed_build_is_cleared(shop: Shop, moment: tuple[str, str]) -> None:
    assert send_at(shop, signal.SIGKILL, moment) == -signal.SIGKILL
    settle(shop)
    assert shop.left() == []


@pytest.mark.boundaries
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("task", range(10))
def test_a_signal_at_any_task(shop: Shop, number: signal.Signals, task: int) -> None:
    code = send_at(shop, number, ("step.task", "machine/image"), skip=2 * task)
    assert code == (-number if number == signal.SIGKILL else 130)
    if number == signal.SIGKILL:
        settle(shop)
    assert shop.left() == []


@pytest.mark.boundaries
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", range(1, 41))
def test_killed_at_every_call(shop: Shop, when: str, call: int) -> None:
    """The process dies at a call that changes something; the last of them is followed by none."""
    process = start_alone(shop)
    shop.rehearsal.disturb(Disturbance(mutating=True, first=call, kill=when, pid=process.pid))
    process.communicate(timeout=BOUND_S)
    shop.rehearsal.calm()
    if process.returncode == 0:
        pytest.skip("no capability calls: a build makes fewer")
    assert process.returncode == -signal.SIGKILL
    settle(shop)
    assert shop.left() == []


def start_alone(shop: Shop) -> "subprocess.Popen[Any]":
    return subprocess.Popen(
        shop.factory.argv("build", "--target", "machine"),
        env=shop.factory.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_another_run_is_left_alone(shop: Shop) -> None:
    """A build is under way while another one, which is dead, is cleared up."""
    assert send_at(shop, signal.SIGKILL, MOMENTS[1]) == -signal.SIGKILL
    process = start_alone(shop)
    assert process.wait(BOUND_S) == 0
    made = [one for one in shop.account()[EAST] if one.startswith("ami-")]
    assert len(made) == len([one for one in shop.before[EAST] if one.startswith("ami-")]) + 1
    assert list((shop.factory.home / "journal").iterdir()) == []
