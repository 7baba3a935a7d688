"""Instance types and subnets to try in order, until EC2 has capacity for an instance.

Only a lack of capacity leads to the next attempt: other errors would occur again.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from builder.adapters.aws.account import code_of
from builder.errors import MissingError, UsageError
from builder.site import AwsSettings

T = TypeVar("T")
NO_CAPACITY = "try again later, or add instance_types and subnets to [aws] of site.toml"  # hint
_CODES = (
    *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity"),
    "ReservationCapacityExceeded",
)
_LACKS = re.compile(rf"\b(?:{'|'.join(_CODES)})\b|not supported in your requested Availability Zone")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    instance_type: str
    settings: AwsSettings  # with the subnet of this attempt
    number: int
    spot_types: tuple[str, ...] = ()  # types of a spot instance, of which EC2 selects one

    def __str__(self) -> str:
        what = f"a spot instance of {' or '.join(self.spot_types)}" if self.spot_types else self.instance_type
        return f"{what} in {self.settings.subnet or 'the default subnet'}"


class NoCapacityError(Exception):
    """Failure of an attempt after which the next attempt may succeed; `reason` is the error message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def attempts(settings: AwsSettings, default_type: str) -> list[Attempt]:
    """Return the attempts to start an instance: a type in all subnets, then the next type in all subnets."""
    types = settings.instance_types or (default_type,)
    subnets = dict.fromkeys((settings.subnet, *settings.subnets))
    pairs = [(name, subnet) for name in types for subnet in subnets]
    return [
        Attempt(instance_type=name, settings=replace(settings, subnet=subnet), number=number)
        for number, (name, subnet) in enumerate(pairs)
    ]


def build_attempts(settings: AwsSettings, default_type: str) -> list[Attempt]:
    """Return the attempts of a build: spot instances in all subnets if `spot` is set, then on demand."""
    on_demand = attempts(settings, default_type)
    if not settings.spot:
        return on_demand
    types = settings.instance_types or (default_type,)
    return [
        *(replace(each, spot_types=types) for each in on_demand if each.instance_type == types[0]),
        *on_demand,
    ]


def require_consistent(settings: AwsSettings) -> None:
    """Raise UsageError for spot with a capacity reservation, which holds only on-demand instances."""
    if settings.spot and settings.capacity != "none":
        raise UsageError(
            f'aws.spot is true and aws.capacity is "{settings.capacity}",'
            " but a capacity reservation has no spot instances",
            hint="remove spot or capacity from [aws] in site.toml",
        )


def reservation(capacity: str) -> dict[str, str]:
    """Split the setting `capacity` into a preference and the id of a reservation; one of them is empty."""
    is_id = capacity.startswith("cr-")
    return {"preference": "" if is_id else capacity, "reservation": capacity if is_id else ""}


def launch_reservation(capacity: str) -> dict[str, Any]:
    """Return the arguments of RunInstances for a capacity reservation."""
    wanted = reservation(capacity)
    if wanted["reservation"]:
        target = {"CapacityReservationTarget": {"CapacityReservationId": wanted["reservation"]}}
        return {"CapacityReservationSpecification": target}
    return {"CapacityReservationSpecification": {"CapacityReservationPreference": wanted["preference"]}}


def lacks_capacity(text: str) -> bool:
    """True if an error message says that EC2 has no capacity."""
    return _LACKS.search(text) is not None


def lack_of(error: Exception) -> str:
    """Return the message of a botocore error if it reports a lack of EC2 capacity, otherwise ""."""
    text = f"{code_of(error)}: {error}"
    return str(error) if lacks_capacity(text) else ""


def first_with_capacity(
    wanted: Iterable[Attempt],
    start: Callable[[Attempt], T],
    say: Callable[[str], object],
    hint: str = NO_CAPACITY,
) -> T:
    """Return the result of the first attempt for which EC2 has capacity; raise MissingError if none has."""
    lacking: list[str] = []
    reason = ""
    for attempt in wanted:
        try:
            return start(attempt)
        except NoCapacityError as error:
            lacking.append(str(attempt))
            reason = error.reason
            if attempt.spot_types:
                say(f"not built on {attempt}: {error.reason}")
            else:
                say(f"EC2 has no capacity for {attempt}")
    raise MissingError(
        f"EC2 has no capacity for {', '.join(lacking)}: {reason}",
        hint=hint,
    )
