"""The AWS account of a site: real, from the environment's credentials, or rehearsed on this machine."""

import os
from dataclasses import dataclass
from functools import cached_property

from builder.adapters.aws.account import Account, Resource
from builder.adapters.host.network import Network
from builder.app.context import Context
from builder.app.mirrors import site_network
from builder.app.rehearsal import DEFAULT, ensure_up
from builder.arch import of_this_machine
from builder.errors import IntegrityError, MissingError, UsageError
from builder.lock import LOCAL, ami_subject
from builder.model import Plan
from builder.rehearsal import session
from builder.rehearsal.ec2 import seeds
from builder.rehearsal.session import Rehearsal


def environment_account(region: str, network: Network, *, is_patient: bool = True) -> Account:
    """Return the account of this process's credentials, reached through the site's network."""
    environment = {**os.environ, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    return Account(environment, region=region, network=network, is_patient=is_patient)


def _require_account(account: Account, number: str) -> None:
    """Raise MissingError if the AWS credentials belong to another account than `number`."""
    if number and (found := account.account_id()) != number:
        raise MissingError(
            f"the credentials are for account {found}, but aws.account in site.toml is {number}",
            hint=f"set AWS_PROFILE to a profile of account {number}, or correct aws.account in site.toml",
        )


@dataclass(frozen=True)
class SiteAccount:
    """The account that builds a site's AMIs, with the SSH port and the source AMIs of its instances."""

    context: Context
    services: tuple[str, ...] = ()  # that a rehearsal must serve besides its default ones
    is_patient: bool = True  # False: requests fail soon if the account cannot be reached

    @property
    def is_rehearsal(self) -> bool:
        return bool(self.context.site_name == LOCAL)

    @cached_property
    def rehearsal(self) -> Rehearsal:
        return ensure_up(self.context, services=self.services)

    @cached_property
    def account(self) -> Account:
        region = self.context.site.aws.region
        if self.is_rehearsal:
            fence = self.rehearsal.fence(self.context.workspace.cache("fence"), region=region)
            return Account(fence.environment, region=region, appear_s=self.rehearsal.rules.unlisted_s)
        network = site_network(self.context)
        account = environment_account(region, network, is_patient=self.is_patient)
        _require_account(account, self.context.site.aws.account)
        return account

    def running(self) -> Account | None:
        """Return the AWS account; None if the account is a rehearsal that is not running."""
        if self.is_rehearsal and session.find(self.context.workspace, DEFAULT) is None:
            return None
        return self.account

    @property
    def ssh_port(self) -> int:
        return self.rehearsal.ssh_port if self.is_rehearsal else 22

    def source(self, plan: Plan) -> Resource:
        """Return the AMI to start an instance from: the locked AMI, or in a rehearsal the seeded AMI."""
        ami = self._rehearsed(plan) if self.is_rehearsal else self._locked(plan)
        found = self.account.image(ami)
        if found is None:
            raise IntegrityError(
                f"source AMI {ami} of system '{plan.system.name}' no longer exists in {self.account.region}",
                hint=f"builder lock --update {plan.system.name}",
            )
        return found

    def _locked(self, plan: Plan) -> str:
        if plan.system.ami is None:
            raise UsageError(
                f"system '{plan.system.name}' has no source AMI",
                hint=f"add [ami] to catalog/systems/{plan.system.name}.toml",
            )
        subject = ami_subject(plan.system.ami, region=self.account.region, arch=plan.arch)
        return self.context.lock.value("ami", subject)

    def _rehearsed(self, plan: Plan) -> str:
        account = seeds.load(self.context.root, self.context.catalog, arch=of_this_machine())
        seeded = (seed for seed in account.seeds if seed.system == plan.system.name and seed.starts)
        return next(seeded).id_in(self.account.region)
