"""Create the temporary key pair and security group for SSH to an instance, with journal entries."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.ami import journal
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account
from builder.adapters.aws.sshkeys import KeyPair, key_pair
from builder.adapters.host.workspace import Run
from builder.events import Stream
from builder.site import AwsSettings

_GROUP = "security-group"
# The journal entries of an instance and of its SSH access have the same name.
_KINDS = ("key-pair", _GROUP, "instance")


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    key: KeyPair
    group: str


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
) -> Iterator[Access]:
    """Create a key pair and a security group, and delete them at the end of the block.

    A group that is still in use is not an error: a note reports the group, and its journal entry stays open
    so that the end of the run or `builder clean` deletes the group.
    """
    with journal.temporary(run, account, _KINDS, name) as keep_entry_open:

        def report(group: str) -> None:
            keep_entry_open(_GROUP)
            error = groups.in_use(group, account.region)
            events.emit("note", text=f"{error.message}; {error.hint}")

        with (
            key_pair(account, name, folder, tags) as key,
            groups.security_group(
                account, settings, name, tags, cancelled=run.cancelled, on_left=report
            ) as group,
        ):
            yield Access(key=key, group=group)
