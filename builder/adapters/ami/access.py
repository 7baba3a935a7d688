"""SSH access to a machine of a run: a key pair and a security group, in the journal while they exist."""

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
# Everything that a machine brings with it, under one name.
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
    """Creates both, and deletes them when the block ends.

    A group that is still in use then is reported in a note and stays in the journal: a finished image is not
    lost because of it, and the end of the run or `builder clean` deletes it.
    """
    with journal.temporary(run, account, _KINDS, name) as keep_entry:

        def report(group: str) -> None:
            keep_entry(_GROUP)
            error = groups.in_use(group, account.region)
            events.emit("note", text=f"{error.message}; {error.hint}")

        with (
            key_pair(account, name, folder, tags) as key,
            groups.security_group(
                account, settings, name, tags, cancelled=run.cancelled, on_left=report
            ) as group,
        ):
            yield Access(key=key, group=group)
