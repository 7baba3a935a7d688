"""Test factory that builds AMIs in a rehearsal, with tiny roles and the real Packer template."""

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
CLEANUP = 'summary = "removes leftovers of the build"\nlayer = "final"\nrequires = ["base"]\n'


@dataclass
class AmiFactory:
    """A small factory for AMI builds in a rehearsal."""

    factory: Factory
    rehearsal: Rehearsal
    disks: str = ""  # image repository in the engine, with a tag for each disk of the rehearsal
    before: dict[str, list[str]] = field(default_factory=dict)

    @property
    def aws(self) -> Clients:
        return Clients(self.rehearsal.endpoint, self.rehearsal.key)

    def build(self, *words: str, **environment: str) -> Build:
        return self.factory.build("--target", "machine", *words, **environment)

    def account(self) -> dict[str, list[str]]:
        """Return the ids of all resources in the account that a build can create, by region."""
        found: dict[str, list[str]] = {}
        for region in REGIONS:
            ec2, ssm = self.aws("ec2", region), self.aws("ssm", region)
            instances = [
                instance["InstanceId"]
                for reservation in ec2.describe_instances()["Reservations"]
                for instance in reservation["Instances"]
                if instance["State"]["Name"] != "terminated"
            ]
            images = ec2.describe_images(Owners=["self"], IncludeDeprecated=True)["Images"]
            snapshots = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
            groups = ec2.describe_security_groups()["SecurityGroups"]
            pages = ssm.get_paginator("describe_parameters").paginate()
            parameters = [parameter["Name"] for page in pages for parameter in page["Parameters"]]
            found[region] = [
                *instances,
                *(image["ImageId"] for image in images),
                *(snapshot["SnapshotId"] for snapshot in snapshots),
                *(key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]),
                *(group["GroupId"] for group in groups if group["GroupName"] != "default"),
                *(volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]),
                *(name for name in parameters if not name.startswith("/aws/")),
            ]
        return found

    def left(self) -> list[str]:
        """Return the ids of AWS resources that were created or deleted since `before` was recorded."""
        now, before = self.account(), self.before
        return [f"{region} {name}" for region in now for name in {*now[region]} ^ {*before[region]}]

    def calls(self, after: int = 0) -> list[Call]:
        return self.rehearsal.calls(after=after)

    def retire(self, ami: str) -> None:
        assert self.factory.call("ami", "retire", ami, "--force", "--yes").code == 0

    def disk(self, ami: str) -> str:
        """Return the name of the engine image that has the content of an AMI."""
        (mapping,) = self.aws.describe(ami)["BlockDeviceMappings"]
        return f"{self.disks}:{mapping['Ebs']['SnapshotId']}"

    def signalled(self, number: signal.Signals, moment: tuple[str, str], *, skip: int = 0) -> int:
        return self.factory.signalled(number, moment, "--target", "machine", skip=skip)

    @contextmanager
    def started_alone(self) -> Iterator["subprocess.Popen[Any]"]:
        """Start a build in its own process session; interrupt it at the end of the block if it still runs."""
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

    def clean_up(self) -> None:
        """Run `builder clean` after a build was killed, even if child processes of the build still run."""
        done = self.factory.call("clean", "--yes")
        assert done.code == 0, done.stderr


def prepare(factory: Factory, root: Path) -> Factory:
    """Add an AMI target and its inputs to a factory."""
    repository = factory.repository
    repository.replace("catalog/components/fabric.toml", 'layer = "final"', 'layer = "fabric"')
    repository.write("catalog/targets/machine.toml", TARGET.format(greeting=factory.greeting) + AMI)
    for name in ("rehearsal.toml", "packer.toml"):
        shutil.copy(root / "catalog" / name, repository.root / "catalog")
    shutil.copytree(root / "packer", repository.root / "packer")
    factory.use_role(root, "cleanup", CLEANUP)
    repository.relock()
    return factory


def site(folder: Path, text: str) -> dict[str, str]:
    """Write a site file and return the environment that selects it."""
    file = folder / "site.toml"
    file.write_text(text, encoding="utf-8")
    return {"BUILDER_SITE_FILE": str(file)}


def ami_of(build: Build) -> str:
    assert build.code == 0, build.stderr
    ends = (
        event for event in build.events if event["name"] == "step.end" and event["step"].endswith("/image")
    )
    return str(next(ends)["text"]).partition(",")[0]
