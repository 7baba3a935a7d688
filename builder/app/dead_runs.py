"""Runs whose process is gone and that may have left something in an AWS account or its rehearsal."""

from dataclasses import dataclass

from builder.adapters.ami import janitor, journal
from builder.adapters.aws.account import Account
from builder.adapters.host.workspace import is_running
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.lock import ACCOUNT
from builder.rehearsal import session

_LOOPBACK = "http://127."


@dataclass(frozen=True, kw_only=True)
class DeadRun:
    """One run that ended without clearing up, in one account."""

    run: str
    account_id: str
    account: Account | None  # None where this site may not look now

    def clear(self, context: Context, *, keep_complete: bool) -> list[str]:
        if self.account is None:
            return []
        return janitor.sweep(context.workspace, self.account, self.run, keep_complete=keep_complete)


def dead_runs(context: Context) -> list[DeadRun]:
    """Dead runs with a journal; where a rehearsal is over, everything in it has gone with it."""
    found = []
    for run in journal.runs(context.workspace):
        if is_running(context.workspace, run):
            continue
        accounts = {entry.account_id for entry in journal.read(context.workspace, run)}
        if all(_is_over(context, account_id) for account_id in accounts):
            journal.delete(context.workspace, run)
            continue
        found += [
            DeadRun(run=run, account_id=account_id, account=_account_of(context, account_id))
            for account_id in sorted(accounts)
        ]
    return found


def _account_of(context: Context, account_id: str) -> Account | None:
    """The account, if this site may speak to it."""
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
    """True for a rehearsal that no longer runs."""
    if not account_id.startswith(_LOOPBACK) or context.site_name == ACCOUNT:
        return False
    return _account_of(context, account_id) is None
