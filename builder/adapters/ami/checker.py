"""Boots a throwaway instance of a finished AMI and runs the checks of its components there, over SSH."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.ami import journal
from builder.adapters.ami.maker import MACHINE
from builder.adapters.aws.account import Account, Resource, asking, specifications
from builder.adapters.aws.groups import security_group
from builder.adapters.aws.sshkeys import KeyPair, key_pair
from builder.adapters.checks.testinfra import run_checks
from builder.adapters.host import process
from builder.adapters.host.workspace import Run
from builder.errors import CheckError
from builder.events import Stream
from builder.model import Artifact, Plan, Report
from builder.site import AwsSettings
from builder.sources import check_folders
from builder.wait import until

_BOOT_S, _NEAR_BOOT_S = 900.0, 180.0
_LOGIN = """\
Host *
  User {user}
  Port {port}
  IdentityFile {key}
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ConnectTimeout 10
  ControlMaster auto
  ControlPersist 60
  ControlPath {folder}/%C
"""


@dataclass(frozen=True, kw_only=True)
class MachineChecker:
    """Checks AMIs of one account."""

    account: Account
    settings: AwsSettings
    run: Run
    root: Path
    events: Stream
    tags: Callable[[Plan], Mapping[str, str]]
    environment: Mapping[str, str]
    ssh_port: int = 22

    def check(self, plan: Plan, artifact: Artifact) -> Report:
        started = time.monotonic()
        folder = self.run.scratch / f"check-{plan.key[:16]}"
        name = f"{plan.target.name}-{self.run.name}-check"
        with (
            journal.passing(self.run, self.account, MACHINE, name),
            key_pair(self.account, name, folder, self.tags(plan)) as key,
            security_group(self.account, self.settings, name, self.tags(plan)) as group,
            self._instance(plan, artifact.reference, key, group) as address,
        ):
            config = self._login(plan, key, folder)
            self._wait_for_login(address, config)
            checks = run_checks(
                self.run,
                self.root,
                self.events,
                plan,
                check_folders(self.root, plan.components, plan.target.workload),
                f"ssh://{address}",
                environment=self.environment,
                options=(f"--ssh-config={config}", "--sudo"),
            )
        return Report(reference=artifact.reference, checks=checks, seconds=time.monotonic() - started)

    @contextmanager
    def _instance(self, plan: Plan, ami: str, key: KeyPair, group: str) -> Iterator[str]:
        """The address of a new instance of `ami`, which is gone afterwards."""
        assert plan.target.ami is not None
        ec2 = self.account.client("ec2")
        subnet = self.settings.subnet
        with asking(f"starting an instance of {ami}"):
            answer = ec2.run_instances(
                ImageId=ami,
                InstanceType=plan.target.ami.build_on[plan.arch],
                KeyName=key.name,
                MinCount=1,
                MaxCount=1,
                ClientToken=key.name[-64:],
                InstanceInitiatedShutdownBehavior="terminate",
                MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
                TagSpecifications=specifications(
                    {**self.tags(plan), "Name": key.name}, ["instance", "volume"]
                ),
                SecurityGroupIds=[group],
                **({"SubnetId": subnet} if subnet else {}),
            )
        instance = answer["Instances"][0]["InstanceId"]
        try:
            with asking(f"waiting for {instance}"):
                ec2.get_waiter("instance_running").wait(InstanceIds=[instance])
                found = ec2.describe_instances(InstanceIds=[instance])
            yield self._address(found["Reservations"][0]["Instances"][0])
        finally:
            with asking(f"terminating {instance}"):
                ec2.terminate_instances(InstanceIds=[instance])

    def _address(self, instance: Resource) -> str:
        key = "PublicIpAddress" if self.settings.public_address else "PrivateIpAddress"
        return str(instance.get(key) or instance.get("PublicIpAddress") or instance["PrivateIpAddress"])

    def _login(self, plan: Plan, key: KeyPair, folder: Path) -> Path:
        assert plan.system.ami is not None
        config = folder / "ssh_config"
        self.run.near.mkdir(mode=0o700, exist_ok=True)
        config.write_text(
            _LOGIN.format(user=plan.system.ami.user, port=self.ssh_port, key=key.file, folder=self.run.near),
            encoding="utf-8",
        )
        return config

    def _wait_for_login(self, address: str, config: Path) -> None:
        """Until systemd has settled; a machine that boots degraded says so through its checks."""
        said = ""

        def is_up() -> bool:
            nonlocal said
            argv = ["ssh", "-F", str(config), address, "systemctl is-system-running --wait"]
            done = process.run(argv, timeout_s=120, cancelled=self.run.cancelled)
            said = done.tail
            return said.strip() in ("running", "degraded")

        timeout_s = _NEAR_BOOT_S if self.account.is_on_this_machine else _BOOT_S
        if not until(is_up, timeout_s=timeout_s, every_s=self.account.polling, cancelled=self.run.cancelled):
            raise CheckError(
                f"nobody can log in to {address}: {said}", hint="look at the console of the instance"
            )
