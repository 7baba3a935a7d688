"""The hardware on which an AMI is checked: network cards, capacity, capabilities, two connected machines.

The instance type comes from [checks] in site.toml. By default, checks run on the build's instance type, and
checks that need an accelerator are skipped.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.adapters.ami.access import interface, launch_network
from builder.adapters.ami.capacity import launch_reservation
from builder.adapters.aws.account import Account, calling_aws
from builder.errors import CheckError, MissingError, UsageError
from builder.model import Instance, Plan, Value
from builder.site import AwsSettings, CheckSettings

_BLOCK = "capacity-block"
_USABLE = "active"
_NCCL = "nccl_tests"
_PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]+")
# On instances with many network cards, the first card has an IP address; the others carry only EFA traffic.
_EFA, _EFA_ONLY, _PLAIN = "efa", "efa-only", "interface"
Say = Callable[[str], str]  # runs a command on a machine as the login user and returns its output


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """Instance type for the checks; `facts` is None if the catalog has no type of its family."""

    type: str
    capacity: str
    facts: Instance | None

    def require_fits(self, plan: Plan) -> None:
        """Raise UsageError if the instance type has another architecture than the AMI."""
        if self.facts and self.facts.arch != plan.arch:
            raise UsageError(
                f"checks.instance is {self.type}, an instance for {self.facts.arch}, but the AMI of"
                f" '{plan.target.name}' is for {plan.arch}",
                hint="set another type in [checks] of site.toml",
            )

    def capabilities(self, settings: AwsSettings) -> dict[str, Value]:
        """Return the capabilities of a real instance of this type; a rehearsed instance has none of them."""
        facts = self.facts
        return {
            "kernel": True,
            "gpu": facts is not None and facts.accel == "nvidia",
            "neuron-device": facts is not None and facts.accel == "neuron",
            "nvswitch": facts is not None and facts.nvswitch not in ("", "none"),
            "efa-device": any(kind != _PLAIN for _, kind in self._cards(settings)),
        }

    def machines(self, plan: Plan, settings: AwsSettings) -> int:
        """Return the number of machines for the checks: 2 for an NCCL test, which needs GPUs and EFA."""
        own = self.capabilities(settings)
        return 2 if own["gpu"] and own["efa-device"] and _NCCL in plan.components else 1

    def _cards(self, settings: AwsSettings) -> list[tuple[int, str]]:
        """Return the network cards to use, each with the type of its interface.

        EC2 gives no public address to an instance with several interfaces.
        """
        facts = self.facts
        if not facts or not facts.efa:
            return [(0, _PLAIN)]
        first = (0, _PLAIN if facts.efa_from else _EFA)
        if interface(settings) not in ("private_ip", "session_manager"):
            return [first]
        start = max(1, facts.efa_from)
        return [first, *((card, _EFA_ONLY) for card in range(start, facts.efa_from + facts.efa))]

    def network(self, settings: AwsSettings, group: str) -> dict[str, Any]:
        """Return the arguments of RunInstances for the network, with EFA on each card."""
        common, cards = launch_network(settings, group), self._cards(settings)
        if [kind for _, kind in cards] == [_PLAIN]:
            return common
        profile = {key: value for key, value in common.items() if key == "IamInstanceProfile"}
        subnet = {"SubnetId": settings.subnet} if settings.subnet else {}
        decided = settings.public_address is not None and len(cards) == 1
        address = {"AssociatePublicIpAddress": settings.public_address} if decided else {}
        found = [
            {
                "NetworkCardIndex": card,
                "DeviceIndex": min(card, 1),
                "InterfaceType": kind,
                "DeleteOnTermination": True,
                "Groups": [group],
                **subnet,
                **address,
            }
            for card, kind in cards
        ]
        return {"NetworkInterfaces": found, **profile}

    def reservation(self, account: Account, settings: AwsSettings) -> dict[str, Any]:
        """Return the arguments of RunInstances for a reservation; a capacity block needs a MarketType."""
        if not self.capacity.startswith("cr-"):
            return launch_reservation(self.capacity)
        with calling_aws(f"describing {self.capacity}"):
            (found,) = account.client("ec2").describe_capacity_reservations(
                CapacityReservationIds=[self.capacity]
            )["CapacityReservations"]
        if found["State"] != _USABLE:
            raise MissingError(
                f"{self.capacity} is in state '{found['State']}',"
                f" valid from {found.get('StartDate', 'unknown')}"
                f" to {found.get('EndDate', 'any time')}",
                hint="build while the reservation is active, or correct capacity in [checks] of site.toml",
            )
        market = {"InstanceMarketOptions": {"MarketType": _BLOCK}}
        zone = {} if settings.subnet else {"Placement": {"AvailabilityZone": found["AvailabilityZone"]}}
        is_block = found.get("ReservationType") == _BLOCK
        return {**launch_reservation(self.capacity), **zone, **(market if is_block else {})}


def of_site(checks: CheckSettings, aws: AwsSettings, instances: Mapping[str, Instance]) -> Hardware | None:
    """Return the hardware that a site sets for checks; None selects the build's instance type."""
    if not checks.instance:
        return None
    capacity = checks.capacity or aws.capacity
    return Hardware(type=checks.instance, capacity=capacity, facts=_facts(checks.instance, instances))


def _facts(name: str, instances: Mapping[str, Instance]) -> Instance | None:
    """Return the facts of an instance type; for a type not in the catalog, only the facts of its family."""
    if name in instances:
        return instances[name]
    family = (each for each in instances.values() if each.name.partition(".")[0] == name.partition(".")[0])
    known = next(family, None)
    if known is None:
        return None
    return replace(known, name=name, efa=None, efa_from=0, count=None, nvswitch="none", dollars_per_hour=None)


def connect(first: Say, second: Say, *, address: str, host_key: Path) -> None:
    """Let the login user of the first machine log in to the second, at its private `address`."""
    _, kind, key, *_ = host_key.read_text(encoding="utf-8").split()
    known = shlex.quote(f"{address} {kind} {key}")
    file = "~/.ssh/id_ed25519"
    answer = first(
        f"mkdir -p -m 700 ~/.ssh && echo {known} >> ~/.ssh/known_hosts"
        f" && ssh-keygen -q -t ed25519 -N '' -f {file} && cat {file}.pub"
    )
    public = _PUBLIC_KEY.search(answer)
    if public is None:
        raise CheckError(
            f"the first instance made no key for SSH to the second: {answer[-200:]}",
            hint="unset instance in [checks] of site.toml to leave out the NCCL run",
        )
    second(f"echo {shlex.quote(public[0])} >> ~/.ssh/authorized_keys")
