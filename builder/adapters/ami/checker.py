"""Boot a temporary instance of an AMI and run the checks of its components there over SSH."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.adapters.ami.access import Access, address_of, launch_network, session_proxy, ssh_access
from builder.adapters.ami.capacity import (
    NO_CAPACITY,
    Attempt,
    NoCapacityError,
    attempts,
    first_with_capacity,
    lack_of,
    launch_reservation,
)
from builder.adapters.ami.failed import FailedInstances
from builder.adapters.ami.hardware import Hardware, connect
from builder.adapters.ami.maker import modules_folder
from builder.adapters.ansible import kernel_modules
from builder.adapters.aws.account import Account, Resource, calling_aws, ignoring, specifications
from builder.adapters.aws.sshkeys import HostKey, KeyPair, escaped, host_key
from builder.adapters.checks.testinfra import run_checks
from builder.adapters.host import process
from builder.adapters.host.workspace import Run
from builder.errors import CheckError
from builder.events import Stream
from builder.model import Artifact, Plan, Report, Value
from builder.site import AwsSettings
from builder.sources import check_folders, require_same_checks
from builder.wait import until

_START_S = 600.0
_BOOT_S, _LOCAL_BOOT_S = 900.0, 180.0
_LOGIN_EVERY_S, _LOCAL_LOGIN_EVERY_S = 2.0, 0.2
_LOGIN = """\
Host *
  User {user}
  Port {port}
  IdentityFile "{key}"
  IdentitiesOnly yes
  HostKeyAlias {alias}
  HostKeyAlgorithms ssh-ed25519
  StrictHostKeyChecking yes
  UserKnownHostsFile "{known_hosts}"
  GlobalKnownHostsFile /dev/null
  UpdateHostKeys no
  LogLevel ERROR
  ConnectTimeout 10
  ServerAliveInterval 15
  ServerAliveCountMax 8
  ControlMaster auto
  ControlPersist 60
  ControlPath "{folder}/%C"
"""


def ssh_config(
    *, user: str, port: int, key: Path, host: HostKey, sockets: Path, proxy_command: str = ""
) -> str:
    """Return an ssh configuration for an instance that accepts only the host key `host`."""
    text = _LOGIN.format(
        user=user,
        port=port,
        key=escaped(key),
        alias=host.alias,
        known_hosts=escaped(host.known_hosts),
        folder=escaped(sockets),
    )
    return text + (f"  ProxyCommand {proxy_command}\n" if proxy_command else "")


_NO_HARDWARE = "try again later, change [checks] of site.toml, or add subnets to [aws]"
_NO_LOGIN = "check subnet, source_cidrs and public_address in [aws] of site.toml"
_FOREIGN_KEY = (
    "the host key is not the one in the instance's user data: check that cloud-init is enabled in the image"
    " and that no other machine answers at this address"
)


@dataclass(frozen=True, kw_only=True)
class MachineChecker:
    """Runs the checks of an AMI on a temporary instance."""

    account: Account
    settings: AwsSettings
    run: Run
    root: Path
    events: Stream
    tags: Callable[[Plan], Mapping[str, str]]
    environment: Mapping[str, str]
    ssh_port: int = 22
    keep_failed: bool = False  # keep the instance if a check fails
    hardware: Hardware | None = None  # None: the type of the build
    # Limits the number of concurrent instances; shared with AmiMaker.
    working: AbstractContextManager[object] = field(default_factory=nullcontext)

    def check(self, plan: Plan, artifact: Artifact) -> Report:
        started = time.monotonic()
        folder = self.run.scratch / f"check-{plan.key[:16]}"
        name = f"{plan.target.name}-{self.run.name}-check"
        host = host_key(folder, "image")
        tags = {**self.tags(plan), "Name": name}
        with (
            self.working,
            ssh_access(
                self.run,
                self.account,
                self.settings,
                self.events,
                name=name,
                folder=folder,
                tags=self.tags(plan),
                allows_itself=self._machines(plan) > 1,
            ) as access,
            self._instances(plan, artifact.reference, access, host) as instances,
            self._failed.kept(plan, access, tags) if self.keep_failed else nullcontext(),
        ):
            config = self._login(plan, access.key, host, folder)
            for instance in instances:
                self._wait_for_login(address_of(instance, self.settings), config)
            address = address_of(instances[0], self.settings)
            checks = run_checks(
                self.run,
                self.root,
                self.events,
                plan,
                check_folders(self.root, plan.components, plan.target.workload),
                f"ssh://{address}",
                environment=self.environment,
                options=(f"--ssh-config={config}", "--sudo"),
                capabilities=self._capabilities(plan, instances, config, host),
            )
            report = Report(reference=artifact.reference, checks=checks, seconds=time.monotonic() - started)
            if self.keep_failed and not report.passed:
                report = dataclasses.replace(report, kept=tuple(self._failed.keep(plan, access, tags)))
        require_same_checks(self.root, plan)
        if report.passed:
            kernel_modules.keep(self.run, modules_folder(self.run, plan), cache=kernel_modules.BUILDS)
        return report

    @property
    def _failed(self) -> FailedInstances:
        return FailedInstances(
            account=self.account,
            settings=self.settings,
            run=self.run,
            ssh_port=self.ssh_port,
            is_build_type=self.hardware is None,
            dollars_per_hour=self._dollars_per_hour,
        )

    @property
    def _dollars_per_hour(self) -> float | None:
        """Price of the site's instance type for checks; None if no type is set or its price is unknown."""
        return self.hardware.facts.dollars_per_hour if self.hardware and self.hardware.facts else None

    def _machines(self, plan: Plan) -> int:
        return self.hardware.machines(plan, self.settings) if self.hardware else 1

    def _capabilities(
        self, plan: Plan, instances: Sequence[Resource], config: Path, host: HostKey
    ) -> dict[str, Value]:
        """Return the capabilities of the hardware; `peer` is USER@ADDRESS of the second machine."""
        if self.hardware is None or self.account.is_on_this_machine:
            return {}
        found = self.hardware.capabilities(self.settings)
        if len(instances) > 1:
            assert plan.system.ami is not None
            first, second = (self._on(address_of(each, self.settings), config) for each in instances)
            address = str(instances[1]["PrivateIpAddress"])
            connect(first, second, address=address, host_key=host.known_hosts)
            found["peer"] = f"{plan.system.ami.user}@{address}"
        return found

    def _on(self, address: str, config: Path) -> Callable[[str], str]:
        def run(command: str) -> str:
            argv = ["ssh", "-F", str(config), address, command]
            done = process.run(argv, timeout_s=120, cancelled=self.run.cancelled)
            if done.code != 0:
                raise CheckError(
                    f"a command on {address} failed: {done.tail}",
                    hint="see the command below",
                    details=done.details,
                )
            return done.output

        return run

    @contextmanager
    def _instances(self, plan: Plan, ami: str, access: Access, host: HostKey) -> Iterator[Sequence[Resource]]:
        """Yield running instances of `ami`; terminate them at the end unless failed checks keep one."""
        assert plan.target.ami is not None
        ec2 = self.account.client("ec2")
        wanted = self.settings
        if self.hardware:  # the site's types are those of build instances
            wanted = dataclasses.replace(wanted, instance_types=(self.hardware.type,))
        started = first_with_capacity(
            attempts(wanted, plan.target.ami.build_on[plan.arch]),
            lambda attempt: self._start(plan, ami, access, host, attempt),
            say=lambda text: self.events.emit("note", text=text),
            hint=_NO_HARDWARE if self.hardware else NO_CAPACITY,
        )
        try:
            yield [self._wait_until_running(instance) for instance in started]
        finally:
            if not access.kept.is_set():
                with calling_aws(f"terminating {', '.join(started)}"):
                    ec2.terminate_instances(InstanceIds=started)

    def _start(self, plan: Plan, ami: str, access: Access, host: HostKey, attempt: Attempt) -> list[str]:
        """Start the instances and return their ids; raise NoCapacityError if EC2 lacks capacity."""
        from botocore.exceptions import ClientError

        count = self._machines(plan)
        with calling_aws(f"starting an instance of {ami}"):
            try:
                answer = self.account.client("ec2").run_instances(
                    ImageId=ami,
                    InstanceType=attempt.instance_type,
                    KeyName=access.key.name,
                    MinCount=count,
                    MaxCount=count,
                    ClientToken=f"{access.key.name[-60:]}-{attempt.number}",
                    UserData=host.user_data,
                    InstanceInitiatedShutdownBehavior="terminate",
                    MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
                    TagSpecifications=specifications(
                        {**self.tags(plan), "Name": access.key.name}, ["instance", "volume"]
                    ),
                    **self._shape(attempt, access),
                )
            except ClientError as error:
                if reason := lack_of(error):
                    raise NoCapacityError(reason) from error
                raise
        return [str(instance["InstanceId"]) for instance in answer["Instances"]]

    def _shape(self, attempt: Attempt, access: Access) -> dict[str, Any]:
        """Return the arguments of RunInstances for network and capacity."""
        if self.hardware is None:
            network = launch_network(attempt.settings, access.group)
            return {**network, **launch_reservation(attempt.settings.capacity)}
        return {
            **self.hardware.network(attempt.settings, access.group),
            **self.hardware.reservation(self.account, attempt.settings),
        }

    def _wait_until_running(self, instance: str) -> Resource:
        ec2 = self.account.client("ec2")

        def started() -> Resource | None:
            """Return the instance once it is not pending; None while EC2 does not know the new id yet."""
            with calling_aws(f"waiting for {instance}"), ignoring("InvalidInstanceID.NotFound"):
                found = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
                return found if found["State"]["Name"] != "pending" else None
            return None

        found = until(started, timeout_s=_START_S, every_s=self.account.polling, cancelled=self.run.cancelled)
        state = found["State"]["Name"] if found else "pending"
        if found is None or state != "running":
            reason = (found or {}).get("StateReason", {}).get("Message", "EC2 gave no reason")
            raise CheckError(
                f"{instance} is {state} instead of running: {reason}",
                hint=f"aws ec2 get-console-output --region {self.account.region} --instance-id {instance};"
                " then build again",
            )
        return found

    def _login(self, plan: Plan, key: KeyPair, host: HostKey, folder: Path) -> Path:
        assert plan.system.ami is not None
        config = folder / "ssh_config"
        text = ssh_config(
            user=plan.system.ami.user,
            port=self.ssh_port,
            key=key.file,
            host=host,
            sockets=self.run.socket_dir,
            proxy_command=session_proxy(self.account.region, self.settings),
        )
        config.write_text(text, encoding="utf-8")
        return config

    def _wait_for_login(self, address: str, config: Path) -> None:
        """Wait until systemd reports `running` or `degraded`; the checks fail on a degraded system."""
        output = ""

        def is_up() -> bool:
            nonlocal output
            argv = ["ssh", "-F", str(config), address, "systemctl is-system-running --wait"]
            output = process.run(argv, timeout_s=120, cancelled=self.run.cancelled).tail
            return output.strip() in ("running", "degraded")

        is_local = self.account.is_on_this_machine
        if not until(
            is_up,
            timeout_s=_LOCAL_BOOT_S if is_local else _BOOT_S,
            every_s=_LOCAL_LOGIN_EVERY_S if is_local else _LOGIN_EVERY_S,
            cancelled=self.run.cancelled,
        ):
            raise CheckError(
                f"SSH login to {address} failed: {output}",
                hint=_FOREIGN_KEY if "Host key verification failed" in output else _NO_LOGIN,
            )
