"""Container images: layers made in the engine, checked in containers, pushed to a registry."""

import os
import threading
from collections.abc import Sequence
from functools import cached_property, partial

from builder.adapters.container.finder import EngineFinder
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Run
from builder.app.context import Context
from builder.app.lanes.lane import Lane, Work
from builder.errors import FactoryError
from builder.model import Plan, Receipt
from builder.pipeline import Search, Tools
from builder.ports import LayerCache, Ledger, Publisher

# In a site's file, in place of a host: the registry of the account, or of the rehearsal of one.
ECR = "ecr"


class ContainerLane(Lane):
    """Targets of the kind `container`."""

    def __init__(self, context: Context, cancelled: threading.Event) -> None:
        self._context = context
        self._cancelled = cancelled
        self._engine = Engine()
        self._close_maker = _nothing

    def search(self, ledger: Ledger, *, publish: bool) -> Search:
        publisher = self._publisher if publish else None
        return Search(finder=self._finder, ledger=ledger, publisher=publisher)

    def begin(self, work: Work) -> Tools:
        # Needed only by a build that has something to do.
        from builder.adapters.checks.testinfra import ImageChecker
        from builder.adapters.container.maker import LayerMaker
        from builder.adapters.host.receipts import Receipts

        context, ledger = self._context, Receipts(self._context.workspace, root=self._context.root)
        maker = LayerMaker(
            engine=self._engine,
            run=work.run,
            root=context.root,
            events=work.events,
            jobs=work.jobs,
            mirror=work.mirror,
            cache=self._cache(),
            last_layers=ledger.last_layers,
        )
        self._close_maker = maker.close
        checker = ImageChecker(
            engine_url=self._engine.url,
            run=work.run,
            root=context.root,
            events=work.events,
            environment=lambda: dict(os.environ),
        )
        return Tools(
            finder=self._finder,
            maker=maker,
            checker=checker,
            publisher=self._publisher if work.publish else None,
            ledger=work.ledger,
            events=work.events,
        )

    def stop(self, run: Run) -> None:
        from builder.adapters.container.maker import sweep

        sweep(self._engine, run.name)

    def end(self, run: Run) -> None:
        self._close_maker()
        try:
            self.stop(run)
        except FactoryError:
            run.unsettled.set()

    def base_source(self, plan: Plan) -> Sequence[tuple[str, str]]:
        return [(plan.base_image, "its registry")] if plan.base_image else []

    def next_command(self, receipt: Receipt) -> str:
        return f"docker run --rm {image_name(receipt)} --help"

    @cached_property
    def _finder(self) -> EngineFinder:
        return EngineFinder(self._engine)

    @cached_property
    def _publisher(self) -> Publisher:
        return open_publisher(self._context, self._engine, self._cancelled)

    def _cache(self) -> LayerCache | None:
        """The repository through which the site shares layers, if it names one."""
        repository = self._context.site.registry.cache
        if not repository:
            return None
        from builder.adapters.registry.publisher import RegistryCache

        return RegistryCache(
            engine=self._engine,
            place=repository,
            blobs=self._context.blobs,
            cancelled=self._cancelled,
        )


def _nothing() -> None:
    """Stand in for the closing of a maker that was never opened."""


def open_publisher(context: Context, engine: Engine, cancelled: threading.Event) -> Publisher:
    from builder.adapters.registry.publisher import RegistryPublisher

    destination = push_destination(context)
    host, _, path = destination.partition("/")
    publisher = partial(
        RegistryPublisher,
        engine=engine,
        blobs=context.blobs,
        siblings=tuple(context.catalog.targets),
        cancelled=cancelled,
    )
    if host != ECR:
        return publisher(place=destination)
    from builder.adapters.aws import ecr
    from builder.app.account import SiteAccount

    account = SiteAccount(context).account
    host, credentials = ecr.log_in(account)
    return publisher(
        place=f"{host}/{path}" if path else host,
        credentials=credentials,
        ensure=partial(ecr.ensure_repository, account),
    )


def push_destination(context: Context) -> str:
    """The site's registry; where it names none, the one on this machine, started if need be."""
    if context.site.registry.push:
        return context.site.registry.push
    from builder.adapters.registry.local import ensure_up

    return ensure_up(context.workspace)


def image_name(receipt: Receipt) -> str:
    """The tag that the engine has for the newest image of a target."""
    return f"{receipt.plan.target.name}:{receipt.plan.stack.name}"
