"""A small factory whose AMIs are made in a rehearsal: the role is small, all else is what users have."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.rehearsal.calls import Call
from builder.rehearsal.session import Rehearsal
from tests.support.factory import BOUND_S, Build, Factory
from tests.support.rehearsal import REGIONS, Clients
from tests.support.repository import AMI

TARGET = """
summary = "a small machine"
kind = "ami"
components = ["fabric", "cleanup"]
[flavours.debian-12]
summary = "the default"
system = "debian-12"
stack = "plain-1"
[variables]
base_greeting = "{greeting}"
"""
CLEANUP = 'summary = "nothing of the build stays"\nlayer = "final"\nrequires = ["base"]\n'


@dataclass
class AmiFactory:
    """A small factory whose AMIs are made in a rehearsal of its own."""

    factory: Factory
    rehearsal: Rehearsal
    disks: str = ""  # the repository of the engine that a disk of the rehearsal is a tag in
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

    def disk(self, ami: str) -> str:
        """The image of the engine that holds what an AMI holds."""
        (mapping,) = self.aws.describe(ami)["BlockDeviceMappings"]
        return f"{self.disks}:{mapping['Ebs']['SnapshotId']}"

    def signalled(self, number: signal.Signals, moment: tuple[str, str], *, skip: int = 0) -> int:
        return self.factory.signalled(number, moment, "--target", "machine", skip=skip)

    @contextmanager
    def started_alone(self) -> Iterator["subprocess.Popen[Any]"]:
        """A build in a session of its own; one that is still under way when the block ends is interrupted."""
        process = subprocess.Popen(
            self.factory.argv("build", "--target", "machine"),
            env=self.factory.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(BOUND_S)

    def settle(self) -> None:
        """After a kill: `builder clean` removes what is left, whoever is still at work for the dead run."""
        done = self.factory.call("clean", "--yes")
        assert done.code == 0, done.stderr


def prepare(factory: Factory, root: Path) -> Factory:
    """What a factory needs to make machines."""
    repository = factory.repository
    repository.write("catalog/targets/machine.toml", TARGET.format(greeting=factory.greeting) + AMI)
    for name in ("rehearsal.toml", "packer.toml"):
        shutil.copy(root / "catalog" / name, repository.root / "catalog")
    shutil.copytree(root / "packer", repository.root / "packer")
    factory.use_role(root, "cleanup", CLEANUP)
    repository.relock()
    return factory


def site(folder: Path, text: str) -> dict[str, str]:
    """The environment that makes `text` what is said of the site."""
    file = folder / "site.toml"
    file.write_text(text, encoding="utf-8")
    return {"BUILDER_SITE_FILE": str(file)}


def ami_of(build: Build) -> str:
    assert build.code == 0, build.stderr
    ends = (
        event for event in build.events if event["name"] == "step.end" and event["step"].endswith("/image")
    )
    return str(next(ends)["text"]).partition(",")[0]
