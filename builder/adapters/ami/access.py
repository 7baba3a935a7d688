"""Create the temporary key pair and security group for SSH to an instance, with journal entries."""

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.adapters.ami import journal
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account, Resource
from builder.adapters.aws.sshkeys import KeyPair, key_pair
from builder.adapters.host.workspace import Run
from builder.errors import FactoryError, MissingError, UsageError
from builder.events import Stream
from builder.site import AwsSettings

SESSION_MANAGER = "session_manager"
_GUIDE = "https://docs.aws.amazon.com"
# Programs needed to reach an instance through Session Manager, with the URLs of their installation guides.
_PROGRAMS = {
    "session-manager-plugin": f"{_GUIDE}/systems-manager/latest/userguide/"
    "session-manager-working-with-install-plugin.html",
    "aws": f"{_GUIDE}/cli/latest/userguide/getting-started-install.html",
}
_GROUP = "security-group"
# An instance, its key pair and its security group have the same name in the journal.
KINDS = ("key-pair", _GROUP, "instance")


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    key: KeyPair
    group: str
    kept: threading.Event = field(default_factory=threading.Event)  # set: both stay after the block


def interface(settings: AwsSettings) -> str:
    """Return Packer's `ssh_interface`; "" selects the public address if there is one."""
    return settings.ssh_interface or ("private_ip" if settings.public_address is False else "")


def session_problems(settings: AwsSettings) -> list[FactoryError]:
    """Return an error for each missing requirement of Session Manager; empty if the site does not use it."""
    found: list[FactoryError] = []
    if settings.ssh_interface != SESSION_MANAGER:
        return found
    if not settings.instance_profile:
        text = "Session Manager needs an instance profile, but aws.instance_profile is not set"
        hint = "set instance_profile in [aws] of site.toml to one with AmazonSSMManagedInstanceCore"
        found.append(UsageError(text, hint=hint))
    for program, page in _PROGRAMS.items():
        if shutil.which(program) is None:
            text = f"aws.ssh_interface is session_manager, but the program {program} is not installed"
            found.append(MissingError(text, hint=f"install it: {page}"))
    return found


def session_proxy(region: str, settings: AwsSettings) -> str:
    """Return the ProxyCommand with which ssh reaches an instance by its id; "" for a direct connection."""
    if settings.ssh_interface != SESSION_MANAGER:
        return ""
    return (
        f"aws ssm start-session --region {region} --target %h --document-name AWS-StartSSHSession"
        " --parameters portNumber=%p"
    )


def address_of(instance: Resource, settings: AwsSettings) -> str:
    """Return the address for SSH to a running instance, the same as Packer selects.

    With Session Manager, the address is the instance id.
    """
    if settings.ssh_interface == SESSION_MANAGER:
        return str(instance["InstanceId"])
    private = str(instance["PrivateIpAddress"])
    if interface(settings) == "private_ip":
        return private
    return str(instance.get("PublicIpAddress") or private)


def launch_network(settings: AwsSettings, group: str) -> dict[str, Any]:
    """Return the security group, subnet, public address and instance profile as arguments of RunInstances."""
    subnet = {"SubnetId": settings.subnet} if settings.subnet else {}
    # The SSM Agent needs the permissions of the instance profile.
    is_session = settings.ssh_interface == SESSION_MANAGER
    profile = {"IamInstanceProfile": {"Name": settings.instance_profile}} if is_session else {}
    if settings.public_address is None or not subnet:
        return {"SecurityGroupIds": [group], **subnet, **profile}
    card = {
        "DeviceIndex": 0,
        "AssociatePublicIpAddress": settings.public_address,
        "DeleteOnTermination": True,
        "Groups": [group],
    }
    return {"NetworkInterfaces": [card | subnet], **profile}


@contextmanager
def ssh_access(
    run: Run,
    account: Account,
    settings: AwsSettings,
    events: Stream,
    *,
    name: str,
    folder: Path,
    tags: Mapping[str, str],
    allows_itself: bool = False,
) -> Iterator[Access]:
    """Create a key pair and a security group, and delete them at the end of the block unless they are kept.

    `allows_itself` allows all traffic between the instances of the group.

    A group that is still in use is not an error: a note reports the group, and its journal entry stays open
    so that the end of the run or `builder clean` deletes the group.
    """
    with journal.temporary(run, account, KINDS, name) as keep_entry_open:

        def report(group: str) -> None:
            keep_entry_open(_GROUP)
            error = groups.in_use(group, account.region)
            events.emit("note", text=f"{error.message}; {error.hint}")

        kept = threading.Event()
        with (
            key_pair(account, name, folder, tags, kept=kept) as key,
            groups.security_group(
                account,
                settings,
                name,
                tags,
                cancelled=run.cancelled,
                on_left=report,
                kept=kept,
                allows_itself=allows_itself,
            ) as group,
        ):
            yield Access(key=key, group=group, kept=kept)
        if kept.is_set():
            for kind in KINDS:
                keep_entry_open(kind)
