"""Rules of a rehearsed account that differ between AWS accounts: delays, enforced settings, IAM policy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from builder.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Rules that hold in a rehearsed account; the defaults are those of a new account."""

    pending_s: float = 0.0  # minimum time that a new AMI stays pending
    unlisted_s: float = 0.0  # time for which EC2 does not find a new instance or AMI
    enforces_tokens: bool = False  # instances start only if their metadata requires a token
    is_inside: bool = False  # this host is in the VPC, so it reaches private addresses
    has_spot: bool = True  # EC2 has capacity for spot instances
    vcpus: int = 1152  # vCPUs that may run at once
    reservations: tuple[str, ...] = ()  # ids of active capacity reservations
    capacity_blocks: tuple[str, ...] = ()  # ids of active capacity blocks
    denied_regions: tuple[str, ...] = ()  # a service control policy denies all calls there
    policy: Mapping[str, Any] | None = None  # IAM policy of the caller; None allows everything

    def as_table(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        if unknown := sorted(set(table) - set(cls.__dataclass_fields__)):
            raise UsageError(
                f"rules of a rehearsal: unknown keys: {', '.join(unknown)}",
                hint=f"use: {', '.join(sorted(cls.__dataclass_fields__))}",
            )
        lists = ("reservations", "capacity_blocks", "denied_regions")
        return cls(**{**table, **{name: tuple(table.get(name, ())) for name in lists}})


NEW_ACCOUNT = Rules()
