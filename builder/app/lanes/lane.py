"""The interface of a lane: how targets of one kind are found, made, checked and published."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from builder.adapters.host.receipts import Receipts
from builder.adapters.host.workspace import Run
from builder.events import Stream
from builder.model import Plan, Receipt, System
from builder.pipeline import Search, Tools
from builder.ports import Ledger

if TYPE_CHECKING:
    from builder.adapters.upstream.mirror import Mirror


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The options of a build, beside its targets."""

    publish: bool = False
    jobs: int = 1
    as_json: bool = False
    yes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The parts of a run that all its lanes share."""

    run: Run
    events: Stream
    ledger: Receipts
    mirror: "Callable[[Plan], Mirror]"
    request: Request


class Lane(Protocol):
    """Finds, makes, checks and publishes the targets of one kind; opened once for each command."""

    def search(self, ledger: Ledger, *, publish: bool) -> Search: ...

    def begin(self, work: Work) -> Tools: ...

    def end(self) -> None:
        """Remove what the run has left, after its workers have ended; called if and only if it began."""

    def base_source(self, plan: Plan) -> Sequence[tuple[str, str]]:
        """(what, from where) of a base that is not made of the system's package archive."""

    def next_command(self, receipt: Receipt) -> str:
        """The command to try after a build."""

    # What only some lanes have to do.

    def obstacle(self, system: System) -> str:
        """Why this site cannot make the kind on `system`; "" where it can."""
        del system
        return ""

    def prepare(self, plans: Sequence[Plan], *, publish: bool) -> None:
        """Tell where the plans will be made; refuse what could not be published."""
        del plans, publish

    def confirm(self, plans: Sequence[Plan], *, yes: bool) -> None:
        """Ask before these plans create anything that costs money."""
        del plans, yes

    def clear_dead(self) -> None:
        """Remove what runs left outside this machine whose process is gone."""
        return

    def stop(self) -> None:
        """Remove what the workers of the run use now, so that they end soon."""
        return

    def changing_calls(self, plan: Plan, *, publish: bool) -> Sequence[tuple[str, str]]:
        """(service, call) of everything that would change an account."""
        del plan, publish
        return ()

    def policy(self, plan: Plan, *, partition: str) -> Mapping[str, Any] | None:
        """The IAM policy that building and publishing needs; None where no account is needed."""
        del plan, partition
        return None
