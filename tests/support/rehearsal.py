"""Rehearsals for tests: a simulated AWS account in this process, fake hosts, AWS clients, key pairs."""

import subprocess
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

from builder import catalog
from builder.errors import BuildError
from builder.rehearsal.ec2 import seeds
from builder.rehearsal.ec2.hosts import Launch
from builder.rehearsal.gate import SERVICES, Gate
from builder.rehearsal.gate import Key as Credentials
from builder.wait import until

# AWS credentials of rehearsals that run in a test process.
KEY = Credentials(access="AKIATESTTESTTESTTEST", secret="secret-of-the-tests")
ROOT = Path(__file__).resolve().parents[2]
# All botocore sessions share a loader, because each new loader parses 10 MB of JSON for EC2 again.
botocore.session.create_loader = cache(botocore.session.create_loader)
DEBIAN = "/aws/service/debian/release/12/latest/amd64"
EAST, WEST, IRELAND = REGIONS = ("us-east-1", "us-west-2", "eu-west-1")


@dataclass
class FakeHosts:
    """Fake of Hosts that records requests; `disks` maps each snapshot id to a name for its content."""

    ssh_port: int = 22
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    disks: dict[str, str] = field(default_factory=dict)
    launches: dict[str, Launch] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failing: str | None = None
    taken: set[str] = field(default_factory=set)

    def _ask(self, *words: Any) -> None:
        self.asked.append(words)
        if words[0] == self.failing:
            raise BuildError(f"{words[0]} failed", details="for a test")

    def take_address(self) -> str:
        address = next(
            f"127.0.{n >> 8}.{n & 255}"
            for n in range(514, 65000)
            if f"127.0.{n >> 8}.{n & 255}" not in self.taken
        )
        self.taken.add(address)
        return address

    def release_address(self, address: str) -> None:
        self.taken.discard(address)

    def tag_snapshot(self, snapshot: str, image: str) -> None:
        self.disks[snapshot] = image

    def can_start(self, snapshot: str) -> bool:
        return snapshot in self.disks

    def launch(self, launch: Launch) -> None:
        self.launches[launch.instance] = launch
        self.metadata[launch.instance] = launch.metadata
        self._ask("launch", launch.instance, launch.snapshot)

    def stop(self, instance: str) -> None:
        self._ask("stop", instance)

    def start(self, instance: str, address: str) -> None:
        self._ask("start", instance, address)

    def reboot(self, instance: str, address: str) -> None:
        self._ask("reboot", instance, address)

    def remove(self, instance: str) -> None:
        self._ask("remove", instance)

    def update_metadata(self, instance: str, metadata: Mapping[str, Any]) -> None:
        self.metadata[instance] = metadata

    def capture(self, instance: str, snapshot: str) -> None:
        self._ask("capture", instance, snapshot)
        self.disks[snapshot] = f"disk of {instance}"

    def copy(self, source: str, snapshot: str) -> None:
        self._ask("copy", source, snapshot)
        if source in self.disks:
            self.disks[snapshot] = self.disks[source]

    def delete_snapshot(self, snapshot: str) -> None:
        self._ask("delete_snapshot", snapshot)
        self.disks.pop(snapshot, None)


@dataclass(frozen=True)
class RehearsedAccount:
    endpoint: str
    hosts: FakeHosts
    gate: Gate


@contextmanager
def served(folder: Path, services: Collection[str] = SERVICES) -> Iterator[RehearsedAccount]:
    """Serve a rehearsed account with fake hosts; imports moto late, because most tests do not need it."""
    from builder.rehearsal.ec2 import backends

    account = seeds.load(ROOT, catalog.load(ROOT), arch="x86_64")
    hosts = FakeHosts()
    machines = {"debian-12": "image of debian-12"}
    with backends.serve(account, hosts, machines, folder=folder, key=KEY, services=services) as cloud:
        yield RehearsedAccount(cloud.endpoint, hosts, cloud.gate)


@cache
def _client(endpoint: str, key: Credentials, service: str, region: str) -> Any:
    # No retries: a test that wants a retry repeats the call.
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=120)
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=key.access,
        aws_secret_access_key=key.secret,
        aws_session_token=key.token or None,
        config=config,
    )


@dataclass(frozen=True)
class Clients:
    """boto3 clients for an endpoint, and shortcuts for frequent calls."""

    endpoint: str
    key: Credentials = KEY

    def __call__(self, service: str, region: str = EAST) -> Any:
        return _client(self.endpoint, self.key, service, region)

    @property
    def ec2(self) -> Any:
        return self("ec2")

    def debian(self, region: str = EAST) -> str:
        return str(self("ssm", region).get_parameter(Name=DEBIAN)["Parameter"]["Value"])

    def run(self, image: str = "", region: str = EAST, **more: Any) -> dict[str, Any]:
        request = {"MinCount": 1, "MaxCount": 1, "InstanceType": "m5.large"} | more
        answer = self("ec2", region).run_instances(ImageId=image or self.debian(region), **request)
        found: dict[str, Any] = answer["Instances"][0]
        assert until(lambda: self.state(found["InstanceId"], region) != "pending", timeout_s=60, every_s=0.01)
        return found

    def state(self, instance: str, region: str = EAST) -> str:
        answer = self("ec2", region).describe_instances(InstanceIds=[instance])
        return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])

    def image(self, instance: str, region: str = EAST, **more: Any) -> str:
        request = {"Name": f"test-{uuid.uuid4().hex[:8]}"} | more
        return str(self("ec2", region).create_image(InstanceId=instance, **request)["ImageId"])

    def ready_image(self, instance: str, region: str = EAST, **more: Any) -> str:
        """Create an AMI and wait until it is available, for up to two minutes on a busy machine."""
        image = self.image(instance, region, **more)
        waiter = self("ec2", region).get_waiter("image_available")
        waiter.wait(ImageIds=[image], WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        return image

    def describe(self, image: str, region: str = EAST, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self("ec2", region).describe_images(ImageIds=[image], **more)["Images"][0]
        return found


@dataclass(frozen=True)
class Key:
    """An SSH key pair."""

    file: Path

    @classmethod
    def create(cls, folder: Path) -> "Key":
        file = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
        return cls(file)

    @property
    def public(self) -> bytes:
        return self.file.with_suffix(".pub").read_bytes()

    def ssh(self, address: str, command: str, *, user: str = "admin", port: int = 22) -> str:
        done = self.try_ssh(address, command, user=user, port=port)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_ssh(
        self, address: str, command: str, *, user: str = "admin", port: int = 22
    ) -> "subprocess.CompletedProcess[str]":
        assert address.startswith("127."), f"{address} is not on this machine"
        options = ["BatchMode=yes", "ConnectTimeout=10", "IdentitiesOnly=yes", "LogLevel=ERROR"]
        options += ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        argv = [
            "ssh",
            "-p",
            str(port),
            "-i",
            str(self.file),
            *(word for option in options for word in ("-o", option)),
        ]
        return subprocess.run(
            [*argv, f"{user}@{address}", command], capture_output=True, text=True, timeout=60, check=False
        )
