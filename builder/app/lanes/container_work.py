"""The tools of one run of containers: make layers and check images in the engine."""

import os
import threading

from builder.adapters.checks.testinfra import ImageChecker
from builder.adapters.container.maker import LayerMaker, sweep
from builder.adapters.engine.client import Engine, load_sdk
from builder.adapters.registry.publisher import RegistryCache
from builder.app.context import Context
from builder.app.lanes.lane import Work
from builder.app.mirrors import site_network
from builder.errors import FactoryError
from builder.pipeline import Search, Tools


class ContainerWork:
    """The tools of one run, and its end."""

    def __init__(self, context: Context, engine: Engine, search: Search, work: Work) -> None:
        # Here, and not in the first of the run's threads that needs it: several would load it at once.
        load_sdk()
        self._engine = engine
        self._run = work.run
        self._maker = LayerMaker(
            engine=engine,
            run=work.run,
            root=context.root,
            events=work.events,
            jobs=work.request.jobs,
            mirror=work.mirror,
            cache=_open_cache(context, engine, work.run.cancelled),
            last_layers=work.ledger.last_layers,
        )
        self.tools = Tools(
            finder=search.finder,
            maker=self._maker,
            checker=ImageChecker(
                engine=engine,
                run=work.run,
                root=context.root,
                events=work.events,
                environment=lambda: dict(os.environ),
            ),
            publisher=search.publisher,
            ledger=work.ledger,
            events=work.events,
        )

    def stop(self) -> None:
        """Remove the containers and half-made images of the run."""
        sweep(self._engine, self._run.name)

    def end(self) -> None:
        """Where the engine does not answer, the run is marked, and the next one clears up after it."""
        self._maker.close()
        try:
            self.stop()
        except FactoryError:
            self._run.keep_scratch.set()


def _open_cache(context: Context, engine: Engine, cancelled: threading.Event) -> RegistryCache | None:
    """The repository through which the site shares layers, if it names one."""
    repository = context.site.registry.cache
    if not repository:
        return None
    return RegistryCache(
        engine=engine,
        repository=repository,
        blobs=context.blobs,
        network=site_network(context),
        cancelled=cancelled,
    )
