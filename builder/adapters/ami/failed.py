"""Keep the instance of a failed AMI build or check for debugging, with its key pair and security group.

With `--keep-failed`, Packer does not terminate the instance. The journal records the instance, so that no
other build removes it.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.ami import journal
from builder.adapters.ami.access import SESSION_MANAGER, Access, address_of, session_proxy
from builder.adapters.aws.account import Account, Resource, calling_aws
from builder.adapters.aws.sshkeys import escaped
from builder.adapters.host import private
from builder.adapters.host.workspace import Run
from builder.errors import FactoryError
from builder.model import Plan
from builder.site import AwsSettings

_ALIVE = ["pending", "running", "stopping", "stopped"]
_LOGIN = """\
Host {instance}
  HostName {address}
  User {user}
  Port {port}
  IdentityFile "{key}"
  IdentitiesOnly yes
  StrictHostKeyChecking accept-new
  UserKnownHostsFile "{known_hosts}"
  GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True, kw_only=True)
class FailedInstances:
    """Keeps the instances of the failed builds and checks of one run."""

    account: Account
    settings: AwsSettings
    run: Run
    ssh_port: int
    is_build_type: bool = True  # False: instances of the type that the site names for checks
    dollars_per_hour: float | None = None  # price of the type for checks; None: unknown

    @contextmanager
    def kept(self, plan: Plan, access: Access, tags: Mapping[str, str]) -> Iterator[None]:
        """Keep the instance with these tags if the block fails; add commands for it to the error's hint.

        An instance that is not running is terminated. An interrupted run terminates all its instances.
        """
        try:
            yield
        except FactoryError as error:
            error.hint = "\n".join(filter(None, (error.hint, *self.keep(plan, access, tags))))
            raise

    def keep(self, plan: Plan, access: Access, tags: Mapping[str, str]) -> list[str]:
        """Keep the instance with these tags; return commands to enter and remove it, or an error text."""
        if self.run.cancelled.is_set():
            return []
        try:
            return self._keep(plan, access, tags)
        except (FactoryError, OSError) as error:
            return [f"the instance was not kept: {getattr(error, 'message', error)}"]

    def _keep(self, plan: Plan, access: Access, tags: Mapping[str, str]) -> list[str]:
        """Keep one running instance, and terminate all others with these tags."""
        found = self._instances(tags)
        running = [each for each in found if each["State"]["Name"] == "running"][:1]
        for other in (each for each in found if each not in running):
            with calling_aws(f"terminating {other['InstanceId']}"):
                self.account.client("ec2").terminate_instances(InstanceIds=[other["InstanceId"]])
        if not running:
            return []
        instance = running[0]
        config = self._write_login(plan, access, instance)
        journal.hold(self.run, self.account, access.key.name, instance["InstanceId"])
        access.kept.set()
        return self._lines(plan, instance["InstanceId"], config)

    def _instances(self, tags: Mapping[str, str]) -> list[Resource]:
        filters = [{"Name": f"tag:{name}", "Values": [value]} for name, value in tags.items() if value]
        filters.append({"Name": "instance-state-name", "Values": _ALIVE})
        with calling_aws(f"listing the instances of {self.run.name}"):
            found = self.account.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return [instance for reservation in found for instance in reservation["Instances"]]

    def _write_login(self, plan: Plan, access: Access, instance: Resource) -> Path:
        """Move the private key to the journal's folder, and write an ssh configuration for the instance."""
        assert plan.system.ami is not None
        folder, name = journal.held_folder(self.run.workspace, self.run.name), instance["InstanceId"]
        private.make_folder(folder)
        key, config = folder / f"{name}.key", folder / f"{name}.ssh"
        access.key.file.replace(key)
        text = _LOGIN.format(
            instance=name,
            address=address_of(instance, self.settings),
            user=plan.system.ami.user,
            port=self.ssh_port,
            key=escaped(key),
            known_hosts=escaped(folder / "known_hosts"),
        )
        proxy = session_proxy(self.account.region, self.settings)
        private.write(config, text + (f"  ProxyCommand {proxy}\n" if proxy else ""))
        return config

    def _lines(self, plan: Plan, instance: str, config: Path) -> list[str]:
        region = self.account.region
        lines = [f"look inside: {shlex.join(['ssh', '-F', str(config), instance])}"]
        if self.settings.ssh_interface == SESSION_MANAGER:
            lines.append(f"or: aws ssm start-session --region {region} --target {instance}")
        if self.account.is_on_this_machine:
            return [*lines, f"remove it: builder clean {self.run.name} --yes"]
        assert plan.target.ami is not None
        dollars = plan.target.ami.dollars_per_hour[plan.arch] if self.is_build_type else self.dollars_per_hour
        cost = f"costs about {dollars:.2f} $ per hour" if dollars else "is billed"
        return [
            *lines,
            f"remove it: builder clean {self.run.name} --site aws --yes",
            f"until then, {instance} in {region} {cost}",
        ]
