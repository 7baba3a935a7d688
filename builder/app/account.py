"""The AWS account of a site: the one of the environment, or its rehearsal on this machine."""

import os
from dataclasses import dataclass
from functools import cached_property

from builder.adapters.aws.account import Account, Resource
from builder.adapters.host.network import Network
from builder.app.context import Context
from builder.app.mirrors import site_network
from builder.app.rehearsal import ensure_up
from builder.arch import of_this_machine
from builder.errors import IntegrityError, UsageError
from builder.lock import LOCAL, ami_subject
from builder.model import Plan
from builder.rehearsal.ec2 import seeds
from builder.rehearsal.session import Rehearsal


def environment_account(region: str, network: Network) -> Account:
    """The account that the environment of this process names, reached through the site's network."""
    environment = {**os.environ, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    return Account(environment, region=region, network=network)


@dataclass(frozen=True)
class SiteAccount:
    """Where AMIs are made: the account, how its machines are reached, what they start from."""

    context: Context

    @property
    def is_rehearsal(self) -> bool:
        return bool(self.context.site_name == LOCAL)

    @cached_property
    def rehearsal(self) -> Rehearsal:
        return ensure_up(self.context)

    @cached_property
    def account(self) -> Account:
        region = self.context.site.aws.region
        if self.is_rehearsal:
            fence = self.rehearsal.fence(self.context.workspace.cache("fence"), region=region)
            return Account(fence.environment, region=region)
        return environment_account(region, site_network(self.context))

    @property
    def ssh_port(self) -> int:
        return self.rehearsal.ssh_port if self.is_rehearsal else 22

    def source(self, plan: Plan) -> Resource:
        """The image that an instance starts from: as locked in an account, as seeded in a rehearsal."""
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
        account = seeds.load(self.context.root, self.context.catalog, arch=of_this_machine())
        fitting = (seed for seed in account.seeds if seed.system == plan.system.name and seed.starts)
        return next(fitting).id_in(self.account.region)
