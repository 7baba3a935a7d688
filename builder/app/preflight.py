"""Check an AWS account before the first build: identity, network, tokens, encryption, quotas, permissions.

Probes only read from the account. Each finding describes a problem of builds, with a command or a setting
to fix it.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

from builder import tooling
from builder.adapters.ami.access import SESSION_MANAGER, interface, session_problems
from builder.adapters.ami.capacity import require_consistent
from builder.adapters.ami.packer import Packer
from builder.adapters.ami.permissions import features, policy
from builder.adapters.aws import groups
from builder.adapters.aws.account import Account
from builder.adapters.aws.ecr import EcrLogin
from builder.adapters.aws.facts import Facts, Subnet
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.probes import BAD, GOOD, NOTE, Finding, Probe, ask_all
from builder.arch import ARCHES, of_this_machine
from builder.model import Target
from builder.site import AwsSettings

ANSWER_S = 30.0  # time limit for all calls to the account, which are made at once
_SHOWN = 6
_AWS_KEY = "alias/aws/ebs"


def findings(context: Context) -> Iterator[Finding]:
    """Yield findings about the site's AWS account; only about the identity if it cannot be reached."""
    asked = _Preflight(context)
    identity = list(ask_all({"aws": asked.identity}, limit_s=ANSWER_S)())
    yield from identity
    probes: dict[str, Probe] = {"packer version": asked.packer, "capacity": asked.capacity}
    if all(finding.state == GOOD for finding in identity):
        probes |= {
            "network": asked.network,
            "ssh": asked.ssh,
            "metadata tokens": asked.tokens,
            "encryption": asked.encryption,
            "quota": asked.quota,
            "parameters": asked.parameters,
            "permissions": asked.permissions,
            **({"ecr": asked.ecr} if context.site.registry.is_ecr else {}),
        }
    yield from ask_all(probes, limit_s=ANSWER_S)()


class _Preflight:
    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def _settings(self) -> AwsSettings:
        return self._context.site.aws

    @cached_property
    def _account(self) -> Account:
        return SiteAccount(self._context).account

    @cached_property
    def _facts(self) -> Facts:
        return Facts(self._account)

    @property
    def _targets(self) -> list[Target]:
        return [target for target in self._context.catalog.targets.values() if target.ami]

    def identity(self) -> Iterable[Finding]:
        caller = self._facts.caller()
        text = f"account {caller.split(':')[4]} in {self._account.region}, as {caller}"
        yield Finding(about="aws", state=GOOD, text=text, origin="credentials of the environment")

    # Network.

    def network(self) -> Iterable[Finding]:
        subnet = self._facts.subnet(self._settings.subnet)
        if subnet is None:
            yield Finding(
                about="network",
                state=BAD,
                text=f"{self._account.region} has no default subnet, and aws.subnet is not set",
                fix="set subnet in [aws] of site.toml, or: aws ec2 create-default-vpc"
                f" --region {self._account.region}",
            )
            return
        if subnet.route is None:
            yield _unread("network", "ec2:DescribeRouteTables")
            return
        state, text, fix = _verdict(subnet.route, is_public=self._is_public(subnet))
        yield Finding(about="network", state=state, text=f"{subnet.id} in {subnet.network}: {text}", fix=fix)

    def _is_public(self, subnet: Subnet) -> bool:
        given = self._settings.public_address
        return subnet.assigns_public if given is None else given

    def ssh(self) -> Iterable[Finding]:
        """Report how this machine logs in to instances, and if the security group allows its network."""
        if self._settings.ssh_interface == SESSION_MANAGER:
            problems = session_problems(self._settings)
            for problem in problems:
                yield Finding(about="ssh", state=BAD, text=problem.message, fix=problem.hint)
            if not problems:
                text = f"through Session Manager, with the profile {self._settings.instance_profile}"
                yield Finding(about="ssh", state=GOOD, text=text)
            return
        subnet = self._facts.subnet(self._settings.subnet)
        is_private = interface(self._settings) == "private_ip" or not (subnet and self._is_public(subnet))
        address = "private address" if is_private else "public address"
        if self._settings.security_group:
            text = f"at the {address}, as {self._settings.security_group} allows"
        else:
            text = (
                f"at the {address}, from {', '.join(groups.source_networks(self._account, self._settings))}"
            )
        fix = 'run builder in the VPC or through a VPN; or set ssh_interface = "session_manager" in site.toml'
        if is_private:
            text += "; this machine must reach the VPC"
        yield Finding(about="ssh", state=NOTE if is_private else GOOD, text=text, fix=fix)

    # Account-wide settings.

    def tokens(self) -> Iterable[Finding]:
        enforced = self._facts.enforces_tokens()
        if enforced is None:
            yield _unread("metadata tokens", "ec2:GetInstanceMetadataDefaults")
        elif enforced and not self._packer.needs_plugins():
            text = "the account starts only instances that require tokens, which Packer 1.6 cannot request"
            yield Finding(about="metadata tokens", state=BAD, text=text, fix="install Packer 1.10 or later")
        else:
            text = "enforced by the account" if enforced else "not enforced by the account"
            yield Finding(
                about="metadata tokens", state=GOOD, text=f"{text}; builds require them in every launch"
            )

    def encryption(self) -> Iterable[Finding]:
        key, settings = self._facts.default_key(), self._settings
        if key is None:
            yield _unread("encryption", "ec2:GetEbsEncryptionByDefault and ec2:GetEbsDefaultKmsKeyId")
            return
        shares = settings.share_accounts or settings.share_organizations
        used = settings.kms_key or key
        if shares and (key or settings.encrypt) and (not used or used.endswith(_AWS_KEY)):
            yield Finding(
                about="encryption",
                state=BAD,
                text="AMIs would be encrypted with the AWS managed key; other accounts cannot start them",
                fix="set encrypt = true and kms_key in [aws] of site.toml to a key that they may use",
            )
        else:
            text = f"by default, with {key}" if key else "off by default"
            yield Finding(about="encryption", state=GOOD, text=text)

    def quota(self) -> Iterable[Finding]:
        of_targets = {name for target in self._targets if target.ami for name in target.ami.build_on.values()}
        checks = self._context.site.checks.instance
        types = set(self._settings.instance_types) or of_targets
        types |= {checks} - {""}
        sizes = self._facts.vcpus(types)
        if sizes is None:
            yield _unread("quota", "ec2:DescribeInstanceTypes")
            return
        for name in sorted(types - sizes.keys()):
            text = f"{name} is not offered in {self._account.region}"
            yield Finding(about="quota", state=BAD, text=text, fix="set another region in [aws] of site.toml")
        if not sizes:
            return
        largest = max(sorted(sizes), key=lambda name: sizes[name])
        limit = self._facts.vcpu_quota(largest)
        if limit is None:
            yield _unread("quota", "servicequotas:GetServiceQuota")
            return
        enough = limit >= sizes[largest]
        yield Finding(
            about="quota",
            state=GOOD if enough else BAD,
            text=f"{limit:g} vCPUs may run at once; the largest build instance, {largest}, has"
            f" {sizes[largest]}",
            fix="request a higher quota in the Service Quotas console: EC2, Running On-Demand instances",
        )

    def parameters(self) -> Iterable[Finding]:
        sources = [system.ami for system in self._context.catalog.systems.values() if system.ami]
        arch = of_this_machine()
        words = {"arch": arch, "deb_arch": ARCHES[arch].deb}
        name = next(source.parameter for source in sources if source.parameter).format_map(words)
        if self._facts.parameter(name) is None:
            yield Finding(
                about="parameters",
                state=BAD,
                text=f"public parameters such as {name} cannot be read, so builder lock finds no source AMIs",
                fix="add the statement PublicParameters of builder iam TARGET to the caller's policy",
            )
        else:
            yield Finding(about="parameters", state=GOOD, text="public parameters of AWS can be read")

    def permissions(self) -> Iterable[Finding]:
        """Simulate with IAM whether the caller has all permissions that `builder iam` prints."""
        caller = self._facts.caller()
        if caller.endswith(":root"):
            text = "the root user may do everything; use a role with the policy of builder iam TARGET"
            yield Finding(about="permissions", state=NOTE, text=text, fix="builder iam TARGET > policy.json")
            return
        if ":federated-user/" in caller:
            text = "not checked: IAM simulates no policies of a federated user"
            yield Finding(about="permissions", state=NOTE, text=text, fix="use a user or a role")
            return
        wanted = features(self._settings, self._context.site.checks, encryptable=True)
        partition = caller.split(":")[1]
        missing = self._facts.lacking(caller, policy(wanted, self._settings, partition=partition))
        if missing is None:
            yield _unread("permissions", "iam:SimulatePrincipalPolicy, or iam:GetRole for a role")
            return
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        text = f"the caller lacks {', '.join(missing[:_SHOWN])}{more}"
        yield Finding(
            about="permissions",
            state=BAD if missing else GOOD,
            text=text if missing else "the caller has the permissions that builder iam prints",
            fix="builder iam TARGET > policy.json, then attach the policy to the caller",
        )

    # Local programs and the registry.

    @property
    def _packer(self) -> Packer:
        return Packer(self._context.root / "packer" / "ami")

    def packer(self) -> Iterable[Finding]:
        """Check the version of Packer, and that the lock has an entry for each Packer plugin."""
        version = ".".join(map(str, self._packer.version()))
        missing = [
            f"{plugin.name} {plugin.version}"
            for plugin in tooling.plugins(self._context.root, of_this_machine())
            if self._packer.needs_plugins() and not self._context.lock.value("archive", plugin.url)
        ]
        text = f"{version}; not locked: {', '.join(missing)}" if missing else version
        state = BAD if missing else GOOD
        yield Finding(about="packer version", state=state, text=text, fix="builder lock TARGET --site aws")

    def capacity(self) -> Iterable[Finding]:
        """Yield a finding if builds cannot use the capacity that aws.capacity in site.toml selects."""
        require_consistent(self._settings)
        if self._settings.capacity != "none" and not self._packer.needs_plugins():
            text = f'Packer 1.6 ignores aws.capacity = "{self._settings.capacity}": builds use no reservation'
            yield Finding(about="capacity", state=BAD, text=text, fix="install Packer 1.10 or later")

    def ecr(self) -> Iterable[Finding]:
        host = EcrLogin(self._account).host
        yield Finding(about="ecr", state=GOOD, text=f"login to {host} succeeded")


def _verdict(route: str, *, is_public: bool) -> tuple[str, str, str]:
    """Return (state, text, fix) of the finding about an instance's route to the internet."""
    kind = route.partition("-")[0]
    if not route:
        fix = (
            "add a route to a NAT gateway or an internet gateway, or set another subnet in [aws] of site.toml"
        )
        return BAD, "no route to the internet, so instances cannot download packages", fix
    if kind == "igw" and not is_public:
        text = f"{route} needs a public address, which instances do not get: they reach nothing outside"
        return BAD, text, "set public_address = true in [aws] of site.toml, or a subnet with a NAT gateway"
    if kind != "igw" and is_public:
        text = f"instances get a public address, but the route goes to {route}: it cannot be reached"
        return BAD, text, "set public_address = false in [aws] of site.toml"
    address = "a public address" if is_public else "no public address"
    return GOOD, f"instances get {address}; the route to the internet goes to {route}", ""


def _unread(about: str, actions: str) -> Finding:
    """Return a note that an optional check was skipped because the caller lacks permissions."""
    text = f"not checked: the caller lacks {actions}"
    return Finding(about=about, state=NOTE, text=text, fix="allow what builder iam TARGET --doctor adds")
