"""Finds runs whose process has died and that may have left resources in an AWS account or a rehearsal."""

import sys
from dataclasses import dataclass

from builder.adapters.ami import janitor, journal
from builder.adapters.aws.account import Account
from builder.adapters.host.network import is_local_url
from builder.adapters.host.workspace import is_running
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.errors import MissingError
from builder.lock import ACCOUNT
from builder.rehearsal import session


@dataclass(frozen=True, kw_only=True)
class DeadRun:
    """A run whose process has died, and an account in which the run may have left resources."""

    run: str
    account_id: str
    account: Account | None  # None if the current site cannot access it
    instances: tuple[str, ...] = ()  # that `--keep-failed` kept

    def clear(self, context: Context, *, keep_complete: bool) -> list[str]:
        if self.account is None:
            return []
        return janitor.sweep(context.workspace, self.account, self.run, keep_complete=keep_complete)


def dead_runs(context: Context) -> list[DeadRun]:
    """Return the dead runs with a journal of created resources, one item per account in each journal.

    If a journal names only rehearsals that have ended, its resources are gone and the journal is deleted.
    """
    found = []
    for run in journal.runs(context.workspace):
        if is_running(context.workspace, run):
            continue
        try:
            entries = journal.read(context.workspace, run)
        except MissingError as error:
            print(f"run {run} is left alone: {error.message}; {error.hint}", file=sys.stderr)
            continue
        accounts = {entry.account_id for entry in entries}
        held = [entry for entry in entries if entry.is_held]
        if all(_is_over(context, account_id) for account_id in accounts):
            journal.delete(context.workspace, run)
            continue
        found += [
            DeadRun(
                run=run,
                account_id=account_id,
                account=_account_of(context, account_id),
                instances=tuple(entry.id for entry in held if entry.account_id == account_id),
            )
            for account_id in sorted(accounts)
        ]
    return found


def _account_of(context: Context, account_id: str) -> Account | None:
    """Return the account with this id; None if the current site cannot access it."""
    if context.site_name == ACCOUNT:
        account = SiteAccount(context).account
        return account if journal.account_id_of(account) == account_id else None
    for name in session.names(context.workspace):
        running = session.find(context.workspace, name)
        if running and running.endpoint == account_id:
            scratch = context.workspace.cache("fence")
            return Account(running.fence(scratch).environment, region=running.regions[0])
    return None


def _is_over(context: Context, account_id: str) -> bool:
    """True if the account was a rehearsal that has ended."""
    if not is_local_url(account_id) or context.site_name == ACCOUNT:
        return False
    return _account_of(context, account_id) is None
