"""The interface of a lane, which finds, makes, checks and publishes targets of one kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from builder.adapters.host.receipts import Receipts
from builder.adapters.host.workspace import Run
from builder.app.outlook import Outlook
from builder.errors import UsageError
from builder.events import Stream
from builder.model import Plan, Receipt
from builder.pipeline import Search, Tools
from builder.ports import Ledger
from builder.tables import did_you_mean
from builder.values import dataclass

if TYPE_CHECKING:
    from builder.adapters.upstream.mirror import Mirror


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The options of a build besides its targets."""

    publish: bool = False
    jobs: int = 1
    as_json: bool = False
    yes: bool = False
    force: bool = False
    checkpoints: bool = True  # whether builds of AMIs may use and make checkpoints
    rebuild: tuple[str, ...] = ()  # names of layers to build again, with all layers on top of them
    reproduce: bool = False  # the image is compared with that of another build
    keep_failed: bool = False
    only: str = ""  # run only the checks of this component, or those with this word in their name


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The parts of a run that all lanes share."""

    run: Run
    events: Stream
    ledger: Receipts
    mirror: "Callable[[Plan], Mirror]"
    request: Request


def require_layers(plans: Sequence[Plan], names: Sequence[str]) -> None:
    """Raise UsageError if a layer that --rebuild names is in none of the plans."""
    known = list(dict.fromkeys(layer.name for plan in plans for layer in plan.layers))
    for name in names:
        if name not in known:
            raise UsageError(
                f"--rebuild {name}: no such layer{did_you_mean(name, known)}",
                hint=f"builder plan {plans[0].target.name}",
            )


class Lane(Protocol):
    """Finds, makes, checks and publishes targets of one kind; opened once per command."""

    def search(self, ledger: Ledger, *, publish: bool) -> Search: ...

    def begin(self, work: Work) -> Tools: ...

    def end(self) -> None:
        """Remove the run's resources after its workers have ended; called only if `begin` succeeded."""

    def base_source(self, plan: Plan) -> Sequence[tuple[str, str]]:
        """Return (name, source) of the plan's base image; nothing if a package archive is the source."""

    def next_command(self, receipt: Receipt) -> str:
        """Return a command that uses the result of a build."""

    # Default implementations for lanes that do not need these methods.

    def require_supported(self, plans: Sequence[Plan], request: Request) -> None:
        """Raise UsageError if an option of the request does not apply to the plans."""
        del plans, request

    def require_buildable(self, plan: Plan) -> None:
        """Raise UsageError if this site cannot build the plan."""
        del plan

    def prepare(self, plans: Sequence[Plan], *, publish: bool) -> None:
        """Print where the plans are built; raise if a plan could not be published."""
        del plans, publish

    def confirm(self, plans: Sequence[Plan], request: Request) -> None:
        """Ask for confirmation before the plans create billable resources."""
        del plans, request

    def outlook(self, plan: Plan, request: Request) -> Outlook | None:
        """Return the AMI that a build would start from; None in lanes that look for layers in the engine."""
        del plan, request
        return None

    def clear_dead(self) -> None:
        """Remove resources outside this machine that dead runs have left."""
        return

    def reuse(self, receipt: Receipt) -> None:
        """Restore what a build sets outside the finished image, such as its tag."""
        del receipt

    def missing_layers(self, plan: Plan, request: Request) -> Sequence[str]:
        """Return the names of the layers that a build of the plan makes."""
        del plan, request
        return ("image",)

    def stop(self) -> None:
        """Remove the resources that the run's workers use, so that the workers end soon."""
        return

    def changing_calls(self, plan: Plan, *, publish: bool) -> Sequence[tuple[str, str]]:
        """Return (service, call) of every AWS API call with which the build would change an account."""
        del plan, publish
        return ()

    def policy(
        self, plan: Plan, *, partition: str, old_packer: bool, doctor: bool
    ) -> Mapping[str, Any] | None:
        """Return the IAM policy for building and publishing; None if no account is needed.

        `old_packer` adds permissions for versions of Packer that create images without tags; `doctor` adds
        permissions for the account checks of `builder doctor`.
        """
        del plan, partition, old_packer, doctor
        return None
