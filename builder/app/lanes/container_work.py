"""Maker and checker of the container lane: build layers and check images in the engine."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from builder.adapters.container.checker import ImageChecker
from builder.adapters.container.maker import LayerMaker, sweep
from builder.adapters.engine.client import Engine, load_sdk
from builder.adapters.registry.publisher import RegistryCache, compress_layers
from builder.app.context import Context
from builder.app.lanes.lane import Work
from builder.app.mirrors import site_network
from builder.errors import FactoryError
from builder.pipeline import Search, Tools


class ContainerWork:
    """The container maker and checker of one run, and the cleanup of the run."""

    def __init__(self, context: Context, engine: Engine, search: Search, work: Work) -> None:
        # Load Docker's SDK before the threads start; otherwise several threads would import it at once.
        load_sdk()
        self._engine = engine
        self._run = work.run
        self._blobs = context.blobs
        self._background = ThreadPoolExecutor(max_workers=1)
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
            on_image=self._compress if search.publisher else lambda _: None,
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

    def _compress(self, image: str) -> None:
        """Compress the layers of an image in the background, while later layers are built."""
        self._background.submit(compress_layers, self._engine, image, self._blobs, self._run.cancelled)

    def stop(self) -> None:
        """Remove the run's partial images and its containers, except containers kept after a failure."""
        sweep(self._engine, self._run.name, kept=self._maker.failed.containers)

    def end(self) -> None:
        """Remove the run's containers; if the engine does not answer, leave this cleanup to the next run."""
        self._background.shutdown(wait=True, cancel_futures=True)
        self._maker.close()
        try:
            self.stop()
        except FactoryError:
            self._run.keep_scratch.set()


def _open_cache(context: Context, engine: Engine, cancelled: threading.Event) -> RegistryCache | None:
    """Return the layer cache in the site's registry; None if registry.cache is not set in site.toml."""
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
