"""What a build of AMIs works with: a rehearsal on this machine, or the account of the environment."""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from builder import tooling
from builder.adapters.ami import janitor, journal
from builder.adapters.ami.checker import MachineChecker
from builder.adapters.ami.maker import AmiFinder, AmiMaker, tags
from builder.adapters.ami.packer import Packer
from builder.adapters.ami.publisher import AmiPublisher
from builder.adapters.ami.steps import Patience
from builder.adapters.aws import ecr
from builder.adapters.aws.account import Account, Resource
from builder.adapters.host import process
from builder.adapters.host.workspace import Run, is_running
from builder.adapters.upstream.mirror import Mirror
from builder.app.context import Context, machine
from builder.errors import FactoryError, IntegrityError, UsageError
from builder.events import Stream
from builder.lock import ACCOUNT, LOCAL, ami_subject
from builder.model import Plan
from builder.pipeline import Tools
from builder.ports import Ledger
from builder.rehearsal import session
from builder.rehearsal.session import Rehearsal

_LOOPBACK = "http://127."
# How a rehearsal is waited for: everything there happens at once.
_NEAR: Mapping[str, float] = {"polling_s": 0.2, "appear_s": 2.0}


@dataclass(frozen=True)
class Place:
    """Where AMIs are made: the account, how its machines are reached, what they start from."""

    context: Context

    @property
    def is_rehearsal(self) -> bool:
        return bool(self.context.place == LOCAL)

    @cached_property
    def rehearsal(self) -> Rehearsal:
        from builder.app.rehearsal import ensure_up

        return ensure_up(self.context)

    @cached_property
    def account(self) -> Account:
        region = self.context.site.aws.region
        if self.is_rehearsal:
            fence = self.rehearsal.fence(self.context.workspace.cache("fence"), region=region)
            return Account(fence.environment, region=region)
        return Account({**os.environ, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}, region=region)

    @property
    def ssh_port(self) -> int:
        return self.rehearsal.ssh_port if self.is_rehearsal else 22

    def source(self, plan: Plan) -> Resource:
        """The image that an instance starts from: as locked in an account, as rehearsed here."""
        ami = self._rehearsed(plan) if self.is_rehearsal else self._locked(plan)
        found = self.account.image(ami)
        if found is None:
            raise IntegrityError(
                f"the source AMI {ami} of '{plan.system.name}' is gone from {self.account.region}",
                hint=f"builder lock --update {plan.system.name}",
            )
        return found

    def _locked(self, plan: Plan) -> str:
        if plan.system.ami is None:
            raise UsageError(
                f"no AMI is made of '{plan.system.name}': it has no [ami]",
                hint=f"catalog/systems/{plan.system.name}.toml",
            )
        subject = ami_subject(plan.system.ami, region=self.account.region, arch=plan.arch)
        return self.context.lock.value("ami", subject)

    def _rehearsed(self, plan: Plan) -> str:
        from builder.rehearsal.ec2 import seeds

        account = seeds.load(self.context.root, self.context.catalog, arch=machine())
        fitting = (seed for seed in account.seeds if seed.system == plan.system.name and seed.starts)
        return next(fitting).id_in(self.account.region)


def announce(context: Context, plans: Sequence[Plan], *, yes: bool) -> AmiFinder:
    """Says where the AMIs of these plans will be made, and asks before anything is made in an account."""
    place = Place(context)
    images = [plan for plan in plans if plan.target.kind == "ami"]
    if place.is_rehearsal:
        names = ", ".join(sorted({plan.system.summary for plan in images}))
        print(f"rehearsal on this machine, no AWS account is touched: {names}", file=sys.stderr)
        return AmiFinder(place.account)
    finder = AmiFinder(place.account)
    missing = [plan for plan in images if finder.find(plan) is None]
    if missing:
        rows = [_intention(place, plan) for plan in missing]
        print(f"account {place.account.number()}, region {place.account.region}", file=sys.stderr)
        print("\n".join(rows), file=sys.stderr)
        if not yes:
            _ask()
    return finder


def _intention(place: Place, plan: Plan) -> str:
    """One line of what will be created, for how long and at what price."""
    shape = plan.target.ami
    assert shape is not None
    source = place.source(plan)
    type_, minutes = shape.build_on[plan.arch], shape.minutes
    dollars = shape.dollars_per_hour * minutes / 60
    return (
        f"  {plan.target.name}: instances of {type_} from {source['ImageId']} ({source.get('Name', '')}),"
        f" a volume of {shape.volume_gib} GiB, an AMI with its snapshot; about {minutes} min, {dollars:.2f} $"
    )


def _ask() -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to agree to what would be created", hint="builder build … --yes")
    if input("create them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was created", hint="builder plan shows what a build does")


def open_tools(
    context: Context,
    run: Run,
    ledger: Ledger,
    events: Stream,
    *,
    mirror: Callable[[Plan], Mirror],
    publish: bool = False,
) -> Tools:
    """Who makes, checks and, if asked, publishes AMIs in one run."""
    place, commit = Place(context), _commit(context.root)
    folder = context.root / "packer"
    Packer(folder / "ami").install_plugins(folder / "plugins", tooling.plugins(context.root))
    common: dict[str, Any] = {
        "account": place.account,
        "settings": context.site.aws,
        "run": run,
        "root": context.root,
        "events": events,
        "ssh_port": place.ssh_port,
    }
    maker = AmiMaker(
        **common, commit=commit, mirror=mirror, source=place.source, polling_s=2 if place.is_rehearsal else 15
    )
    checker = MachineChecker(
        **common, tags=lambda plan: tags(plan, run.name, commit), environment=dict(os.environ)
    )
    publisher = None
    if publish:
        publisher = open_publisher(place, run, say=lambda text: events.emit("note", text=text))
    return Tools(maker=maker, checker=checker, ledger=ledger, events=events, publisher=publisher)


def open_publisher(
    place: Place, run: Run | None = None, *, say: Callable[[str], object] = lambda _: None
) -> AmiPublisher:
    """Who publishes images; without a run it can only look."""
    cancelled = run.cancelled if run else threading.Event()
    settings = place.context.site.aws
    near = _NEAR if place.is_rehearsal else {}
    patience = Patience(cancelled=cancelled, copy_s=settings.wait_minutes * 60.0, **near)
    return AmiPublisher(account=place.account, settings=settings, run=run, patience=patience, say=say)


def open_ecr(context: Context) -> tuple[str, dict[str, Any]]:
    """The host of the account's own registry, and what a publisher needs for it."""
    account = Place(context).account
    host, credentials = ecr.log_in(account)
    return host, {"credentials": credentials, "ensure": partial(ecr.ensure_repository, account)}


def clear_run(context: Context, run: Run) -> None:
    """Removes what a run has left, unless it is complete. Where that fails, the run stays marked."""
    try:
        janitor.sweep(context.workspace, Place(context).account, run.name, keep_complete=True)
    except FactoryError as error:
        run.unsettled.set()
        print(f"{error.message}\nleft for: builder clean", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Dead:
    """A run whose process is gone and that may have left something in an account."""

    run: str
    place: str
    account: Account | None  # None where nobody may look now

    def clear(self, context: Context, *, keep_complete: bool) -> list[str]:
        if self.account is None:
            return []
        return janitor.sweep(context.workspace, self.account, self.run, keep_complete=keep_complete)


def dead_runs(context: Context) -> list[Dead]:
    """Dead runs with a journal; where a rehearsal is over, all that was there has gone with it."""
    found = []
    for run in journal.runs(context.workspace):
        if is_running(context.workspace, run):
            continue
        places = {thing.place for thing in journal.read(context.workspace, run)}
        if all(_is_over(context, place) for place in places):
            journal.forget(context.workspace, run)
            continue
        found += [Dead(run=run, place=place, account=_account_of(context, place)) for place in sorted(places)]
    return found


def _account_of(context: Context, place: str) -> Account | None:
    """The account, if this site may speak to it."""
    if context.place == ACCOUNT:
        account = Place(context).account
        return account if journal.place_of(account) == place else None
    for name in session.names(context.workspace):
        running = session.find(context.workspace, name)
        if running and running.endpoint == place:
            scratch = context.workspace.cache("fence")
            return Account(running.fence(scratch).environment, region=running.regions[0])
    return None


def _is_over(context: Context, place: str) -> bool:
    """Whether it was a rehearsal that does not run any more."""
    if not place.startswith(_LOOPBACK) or context.place == ACCOUNT:
        return False
    return _account_of(context, place) is None


def _commit(root: Path) -> str:
    head = process.run(["git", "-C", str(root), "rev-parse", "HEAD"], timeout_s=30)
    return head.output.strip() if head.code == 0 else ""
