"""The lane of AMIs: Packer builds AMIs in an AWS account or a rehearsal; an instance runs the checks."""

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from builder import tooling
from builder.adapters.ami import hardware, janitor, kept, plugins
from builder.adapters.ami.access import SESSION_MANAGER, session_problems
from builder.adapters.ami.capacity import require_consistent
from builder.adapters.ami.checker import MachineChecker
from builder.adapters.ami.finder import AmiFinder, tags
from builder.adapters.ami.hardware import Hardware
from builder.adapters.ami.maker import AmiMaker
from builder.adapters.ami.packer import Packer
from builder.adapters.ami.permissions import DOCTOR, OLD_PACKER, OLD_SPOT, changing, needs, policy
from builder.adapters.ami.publisher import AmiPublisher
from builder.adapters.ami.steps import Patience
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account
from builder.adapters.host.checkout import commit_of
from builder.adapters.host.workspace import Run
from builder.adapters.upstream import mirror
from builder.adapters.upstream.fetch import Fetcher
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.dead_runs import dead_runs
from builder.app.lanes.lane import Lane, Request, Work, require_layers
from builder.app.outlook import Outlook
from builder.arch import of_this_machine
from builder.checkpoints import Checkpoint, checkpoints, without_rebuilt
from builder.errors import FactoryError, UsageError
from builder.lock import ACCOUNT, LOCAL
from builder.model import Plan, Receipt
from builder.pipeline import Search, Tools
from builder.plan import find_flavour, to_rebuild
from builder.ports import Ledger

_APPEAR_S = 2.0  # also where EC2 lists new resources at once


class AmiLane(Lane):
    """The lane of targets of kind `ami`."""

    def __init__(self, context: Context, cancelled: threading.Event) -> None:
        self._context = context
        self._cancelled = cancelled
        self._site = SiteAccount(context)

    @property
    def _options(self) -> str:
        """The options of a command that builds the same in the account."""
        flavour = f" --flavour {self._context.flavour}" if self._context.flavour else ""
        return f"--site {ACCOUNT}{flavour}"

    def require_buildable(self, plan: Plan) -> None:
        if self._context.site_name == LOCAL and plan.system.bootstrap is None:
            raise UsageError(
                f"target '{plan.target.name}' cannot be rehearsed: system '{plan.system.name}' can only be"
                " built in an AWS account",
                hint=f"builder build {plan.target.name} {self._options}",
            )

    def require_supported(self, plans: Sequence[Plan], request: Request) -> None:
        if request.reproduce:
            raise UsageError(
                f"--reproduce compares container images, but target '{plans[0].target.name}' is an AMI",
                hint="builder list",
            )
        require_layers(plans, request.rebuild)

    def prepare(self, plans: Sequence[Plan], *, publish: bool) -> None:
        if self._site.is_rehearsal:
            systems = ", ".join(sorted({plan.system.summary for plan in plans}))
            print(f"rehearsal on this machine, no AWS account is touched: {systems}", file=sys.stderr)
            print("".join(f"{text}\n" for text in map(_difference, plans) if text), end="", file=sys.stderr)
        settings = self._context.site.aws
        if self._site.is_rehearsal and settings.ssh_interface == SESSION_MANAGER:
            text = "a rehearsal has no Session Manager, but aws.ssh_interface is session_manager"
            raise UsageError(text, hint="unset ssh_interface in site.toml, or build with --site aws")
        require_consistent(settings)
        if self._hardware:
            for plan in plans:
                self._hardware.require_fits(plan)
        for problem in session_problems(settings):
            raise problem
        if publish:
            for plan in plans:
                self._publisher.require_publishable(plan)

    def search(self, ledger: Ledger, *, publish: bool) -> Search:
        publisher = self._publisher if publish else None
        return Search(finder=AmiFinder(self._site.account), ledger=ledger, publisher=publisher)

    def confirm(self, plans: Sequence[Plan], request: Request) -> None:
        if self._site.is_rehearsal:
            return
        outlooks = [(plan, self._look(plan, request, self._site.account)) for plan in plans]
        if not (missing := [pair for pair in outlooks if not pair[1].is_complete]):
            return
        account, settings = self._site.account, self._context.site.aws
        if not settings.security_group:
            if request.yes and not settings.source_cidrs:
                raise groups.no_source_networks("--yes does not choose the networks that may log in")
            print(f"SSH from {', '.join(groups.source_networks(account, settings))}", file=sys.stderr)
        print(f"account {account.account_id()}, region {account.region}", file=sys.stderr)
        print("\n".join(_intention(self._site, *pair) for pair in missing), file=sys.stderr)
        if not request.yes:
            _ask(plans, self._options)

    def outlook(self, plan: Plan, request: Request) -> Outlook | None:
        if not self._wanted(plan, request):
            return Outlook()
        try:
            return self._look(plan, request, dataclasses.replace(self._site, is_patient=False).running())
        except FactoryError as error:
            return dataclasses.replace(self._look(plan, request, None), unknown=error.message)

    def missing_layers(self, plan: Plan, request: Request) -> Sequence[str]:
        return [*self._look(plan, request, self._site.account).makes, "image"]

    def _wanted(self, plan: Plan, request: Request) -> tuple[Checkpoint, ...]:
        is_on = request.checkpoints and self._context.site.checkpoints.enabled
        return checkpoints(plan) if is_on else ()

    def _look(self, plan: Plan, request: Request, account: Account | None) -> Outlook:
        """Return the AMI or checkpoint that a build would start from; `account` None counts as empty."""
        assert plan.target.ami is not None
        wanted, due = self._wanted(plan, request), to_rebuild(plan, request.rebuild)
        size_gib = plan.target.ami.volume_gib
        nothing = Outlook(
            makes=tuple(each.name for each in wanted),
            size_gib=size_gib,
            dollars_per_month=size_gib * self._context.catalog.snapshot_dollars,
        )
        if account is None:
            return nothing
        if not due and (whole := AmiFinder(account).find(plan)):
            last = plan.layers[-1].name
            return dataclasses.replace(nothing, image=whole.reference, layer=last, is_complete=True, makes=())
        found = kept.deepest(account, plan, without_rebuilt(wanted, due), self._context.site.aws)
        if found is None:
            return nothing
        depth = len(found.checkpoint.layers)
        return dataclasses.replace(
            nothing,
            image=found.ami,
            layer=found.checkpoint.name,
            saves_s=found.saves_s,
            makes=tuple(each.name for each in wanted if len(each.layers) > depth),
        )

    def clear_dead(self) -> None:
        for dead in dead_runs(self._context):
            dead.clear(self._context, keep_complete=True)

    def begin(self, work: Work) -> Tools:
        context, site, commit = self._context, self._site, commit_of(self._context.root)
        plugin_path = self._install_plugins(work.run)
        working = threading.Semaphore(work.request.jobs)
        maker = AmiMaker(
            account=site.account,
            settings=context.site.aws,
            run=work.run,
            root=context.root,
            events=work.events,
            ssh_port=site.ssh_port,
            commit=commit,
            mirror=work.mirror,
            source=site.source,
            use_checkpoints=work.request.checkpoints and context.site.checkpoints.enabled,
            rebuild=work.request.rebuild,
            polling_s=2 if site.is_rehearsal else 15,
            plugins=plugin_path,
            keep_failed=work.request.keep_failed,
            working=working,
        )
        checker = MachineChecker(
            account=site.account,
            settings=context.site.aws,
            run=work.run,
            root=context.root,
            events=work.events,
            ssh_port=site.ssh_port,
            tags=lambda plan: tags(plan, work.run, commit),
            environment=dict(os.environ),
            keep_failed=work.request.keep_failed,
            hardware=self._hardware,
            working=working,
        )
        self._run = work.run
        search = self.search(work.ledger, publish=work.request.publish)
        return Tools(
            finder=search.finder,
            maker=maker,
            checker=checker,
            publisher=self._publisher_of(work) if work.request.publish else None,
            ledger=work.ledger,
            events=work.events,
        )

    def _install_plugins(self, run: Run) -> Path | None:
        """Download Packer's locked plugins and return their folder; None if Packer has built-in plugins."""
        context = self._context
        if not Packer(context.root / "packer" / "ami").needs_plugins():
            return None
        fetcher = Fetcher(mirror.connection(context.site.mirror), cancelled=run.cancelled)
        wanted = tooling.plugins(context.root, of_this_machine())
        return plugins.install(run, wanted, context.lock, fetcher)

    def end(self) -> None:
        """Remove the run's AWS resources except complete AMIs; on failure, `builder clean` removes them."""
        try:
            janitor.sweep(self._context.workspace, self._site.account, self._run.name, keep_complete=True)
        except FactoryError as error:
            self._run.keep_scratch.set()
            print(
                f"{error.message}\nresources of this run remain; remove them with: builder clean",
                file=sys.stderr,
            )
        for ami in janitor.unchecked(self._context.workspace, self._run.name):
            print(f"kept {ami}, which was not checked: the next build continues with it", file=sys.stderr)

    def changing_calls(self, plan: Plan, *, publish: bool) -> Sequence[tuple[str, str]]:
        wanted = needs(plan, self._context.site.aws, self._context.site.checks)
        return changing(wanted if publish else wanted & {"build", "group"})

    def policy(self, plan: Plan, *, partition: str, old_packer: bool, doctor: bool) -> Mapping[str, Any]:
        settings = self._context.site.aws
        more = {OLD_PACKER: old_packer, OLD_SPOT: old_packer and settings.spot, DOCTOR: doctor}
        wanted = needs(plan, settings, self._context.site.checks) | {
            feature for feature, is_wanted in more.items() if is_wanted
        }
        return policy(wanted, settings, partition=partition)

    def base_source(self, plan: Plan) -> Sequence[tuple[str, str]]:
        if plan.suites:
            return []
        names = [name for name in plan.layers[0].inputs if name.startswith("ami ")]
        return [(name.removeprefix("ami "), "AMI in the account") for name in names]

    def next_command(self, receipt: Receipt) -> str:
        return f"builder ami show {receipt.artifact.reference}"

    @cached_property
    def _hardware(self) -> Hardware | None:
        site, instances = self._context.site, self._context.catalog.instances
        return hardware.of_site(site.checks, site.aws, instances)

    @cached_property
    def _publisher(self) -> AmiPublisher:
        return open_publisher(self._site, self._cancelled)

    def _publisher_of(self, work: Work) -> AmiPublisher:
        """Return an AMI publisher that records the resources that it creates in the run's journal."""
        return dataclasses.replace(
            self._publisher,
            run=work.run,
            say=lambda text: work.events.emit("note", text=text),
            force=work.request.force,
        )


def _difference(plan: Plan) -> str:
    """Return a note if `--site aws` builds another flavour of the target by default; "" otherwise."""
    with suppress(UsageError):  # no flavour is for accounts
        default = find_flavour(plan.target, site=ACCOUNT)
        if default.name != plan.flavour.name:
            return f"{plan.target.name}: flavour {plan.flavour.name}; --site {ACCOUNT} builds {default.name}"
    return ""


def open_publisher(
    site: SiteAccount,
    cancelled: threading.Event,
    *,
    run: Run | None = None,
    say: Callable[[str], object] = lambda _: None,
    force: bool = False,
) -> AmiPublisher:
    """Return the publisher of a site's AMIs; its publish and copy methods require `run`."""
    settings = site.context.site.aws
    patience = Patience(
        every_s=site.account.polling,
        copy_s=settings.wait_minutes * 60.0,
        appear_s=max(_APPEAR_S, site.account.appear_s),
        cancelled=cancelled,
    )
    return AmiPublisher(
        account=site.account, settings=settings, run=run, patience=patience, say=say, force=force
    )


def _intention(site: SiteAccount, plan: Plan, outlook: Outlook) -> str:
    """Describe the resources that a build creates, with their lifetime and price."""
    shape = plan.target.ami
    assert shape is not None
    source = site.source(plan)
    start = f"{source['ImageId']} ({source.get('Name', '')})"
    if outlook.image:
        start = f"checkpoint {outlook.image} after layer {outlook.layer}"
    made = "".join(f", a checkpoint after layer {layer} with its snapshot" for layer in outlook.makes)
    own, minutes = shape.build_on[plan.arch], shape.minutes
    types = site.context.site.aws.instance_types or (own,)
    dollars = f", {shape.dollars_per_hour[plan.arch] * minutes / 60:.2f} $" if types[0] == own else ""
    return (
        f"  {plan.target.name}: instances of {' or '.join(types)} from {start},"
        f" a volume of {shape.volume_gib} GiB, an AMI with its snapshot{made};"
        f" about {minutes} min{dollars}{_on_hardware(site, plan)}"
    )


def _on_hardware(site: SiteAccount, plan: Plan) -> str:
    """Describe the instances for checks if [checks] in site.toml names an instance type; "" otherwise."""
    found, aws = site.context.site, site.context.site.aws
    wanted = hardware.of_site(found.checks, aws, site.context.catalog.instances)
    if wanted is None:
        return ""
    count = wanted.machines(plan, aws)
    dollars = wanted.facts.dollars_per_hour if wanted.facts else None
    price = f", {dollars:.2f} $ per hour each" if dollars else ""
    return f"; checks on {count} x {wanted.type}{price}"


def _ask(plans: Sequence[Plan], options: str) -> None:
    """Raise UsageError if the user does not confirm the builds, which have these options."""
    names = " ".join(plan.target.name for plan in plans)
    if not sys.stdin.isatty():
        raise UsageError(
            "stdin is not a terminal; pass --yes to confirm", hint=f"builder build {names} {options} --yes"
        )
    if input("create these resources? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was created", hint=f"builder plan {names} {options}")
