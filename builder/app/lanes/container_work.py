"""The tools of the container lane for a run: they make layers and check images in the engine."""

import os
import threading

from builder.adapters.container.checker import ImageChecker
from builder.adapters.container.maker import LayerMaker, sweep
from builder.adapters.engine.client import Engine, load_sdk
from builder.adapters.registry.publisher import RegistryCache
from builder.app.context import Context
from builder.app.lanes.lane import Work
from builder.app.mirrors import site_network
from builder.errors import FactoryError
from builder.pipeline import Search, Tools


class ContainerWork:
    """The tools of one run, and its cleanup."""

    def __init__(self, context: Context, engine: Engine, search: Search, work: Work) -> None:
        # Load the SDK before the threads start, because several threads would import it at once.
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
            rebuild=work.request.rebuild,
            keep_failed=work.request.keep_failed,
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
                failed=self._maker.failed,
                only=work.request.only,
            ),
            publisher=search.publisher,
            ledger=work.ledger,
            events=work.events,
        )

    def stop(self) -> None:
        """Remove the containers, but not those kept after a failure, and partial images of the run."""
        sweep(self._engine, self._run.name, kept=self._maker.failed.containers)

    def end(self) -> None:
        """Clean up; if the engine does not answer, mark the run for cleanup by the next run."""
        self._maker.close()
        try:
            self.stop()
        except FactoryError:
            self._run.keep_scratch.set()


def _open_cache(context: Context, engine: Engine, cancelled: threading.Event) -> RegistryCache | None:
    """Return the cache in the site's registry; None if site.toml has no registry.cache."""
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
