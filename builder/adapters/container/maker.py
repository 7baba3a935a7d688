"""Find or build the layers of a plan in the engine: bootstrap, roles run in a container, workload build.

A layer is an image tagged with its key. The tag is set when the image is complete. Unfinished images have the
label of the run, by which `sweep` finds them.
"""

import dataclasses
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.adapters.ansible import playbook
from builder.adapters.ansible.failures import failure
from builder.adapters.container import base_image, bootstrap, workload
from builder.adapters.container.failed import FailedContainers
from builder.adapters.container.finder import has_layer, is_pulled, reused
from builder.adapters.container.images import ImageWriter, epoch_of, labels_of, reference_time
from builder.adapters.engine.client import LAYERS, LEFTOVERS, Engine, Image, built_by
from builder.adapters.engine.limits import limits
from builder.adapters.engine.network import BuildNetwork, open_network
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.errors import BuildError
from builder.events import Meter, Stream
from builder.marks import RUN_LABEL
from builder.model import Artifact, Layer, LayerResult, Plan
from builder.plan import explain, to_rebuild
from builder.ports import LayerCache
from builder.sources import require_unchanged


class LayerMaker:
    """Builds container images; thread-safe."""

    def __init__(
        self,
        *,
        engine: Engine,
        run: Run,
        root: Path,
        events: Stream,
        jobs: int,
        mirror: Callable[[Plan], Mirror],
        cache: LayerCache | None,
        last_layers: Callable[[str], dict[str, dict[str, Any]]],
        rebuild: Collection[str] = (),
        keep_failed: bool = False,
        on_image: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._run = run
        self._root = root
        self._events = events
        self._working = threading.Semaphore(jobs)
        self._mirror = mirror
        self._cache = cache
        self._last_layers = last_layers
        self._on_image = on_image  # called with the image of each layer that this run built
        self._rebuild = frozenset(rebuild)
        self._due: dict[str, str] = {}  # reason by key, of layers that are built although they exist
        self._rebuilt: set[str] = set()
        self.failed = FailedContainers(engine, run, keep=keep_failed)
        self._background = ThreadPoolExecutor(max_workers=2)
        self._networks = ThreadPoolExecutor(max_workers=jobs)
        self._opened: dict[str, Future[BuildNetwork]] = {}  # by name of the target
        self._known: dict[str, Image] = {}
        self._images = ImageWriter(engine, run)

    def make(self, plan: Plan) -> Artifact:
        """Build the layers of a plan that are missing above its highest existing layer."""
        try:
            return self._make(plan)
        finally:
            self._close_network(plan.target.name)

    def _make(self, plan: Plan) -> Artifact:
        self._known |= self._engine.layers()
        self._due = to_rebuild(plan, self._rebuild) | self._due
        start = self._topmost(plan)
        if not self._has(plan.layers[-1]):
            # Start these calls early: each takes seconds, and the first component layer needs the results.
            self._background.submit(self._engine.connect)
            self._background.submit(self._mirror, plan)
            self._background.submit(playbook.prepare, self._run, self._root, plan)
        results = []
        for i, layer in enumerate(plan.layers):
            step = f"{plan.target.name}/{layer.name}"
            title = ", ".join(layer.components) or layer.name
            with self._events.step(step, title, target=plan.target.name, key=layer.key) as end:
                if i < start:
                    outcome = self._reused(layer, "not needed: a later layer exists")
                else:
                    outcome = self._ensure(plan, layer, step)
                    self._share(layer)
                    if outcome.outcome == "built":
                        self._on_image(outcome.image)
                end.update(text=outcome.reason, outcome=outcome.outcome, size_bytes=outcome.size_bytes)
            is_reused = outcome.outcome == "reused"
            results.append(outcome if is_reused else dataclasses.replace(outcome, seconds=end["seconds"]))
        self._engine.tag(self._known[plan.key].id, plan.target.name, plan.stack.name)
        return self._artifact(plan, results)

    def ensure_base(self, plan: Plan) -> str:
        """Return the image of the plan's base layer; build it if the engine and the cache lack it."""
        self._known |= self._engine.layers()
        return self._ensure(plan, plan.layers[0], f"{plan.target.name}/base").image

    def close(self) -> None:
        self._networks.shutdown(wait=True)
        self._background.shutdown(wait=True)

    def _topmost(self, plan: Plan) -> int:
        """Return the index of the highest layer in the engine or the cache; lower layers are not needed."""
        for i in range(len(plan.layers) - 1, -1, -1):
            if self._has(plan.layers[i]) or self._is_cached(plan.layers[i]):
                return i
        return 0

    def _is_due(self, layer: Layer) -> bool:
        return layer.key in self._due and layer.key not in self._rebuilt

    def _has(self, layer: Layer) -> bool:
        """True if the engine has the layer and the run need not build it again."""
        return has_layer(self._known, layer) and not self._is_due(layer)

    def _reused(self, layer: Layer, reason: str) -> LayerResult:
        return reused(layer, self._known, reason)

    def _ensure(self, plan: Plan, layer: Layer, step: str) -> LayerResult:
        if self._has(layer):
            return self._reused(layer, "in this engine")
        with self._run.locked(f"layer-{layer.key}", waiting=self._waiting_for(step)) as waited:
            if self._refresh(layer):
                return self._reused(layer, "made by a concurrent build" if waited else "in this engine")
            outcome, reason = "pulled", "from the registry cache"
            if not self._pull(layer, step):
                # Lower layers may be missing: the cache has this layer, but it is damaged.
                for lower in plan.layers:
                    if lower.key == layer.parent:
                        self._ensure(plan, lower, step)
                outcome = "built"
                reason = self._due.get(layer.key) or explain(layer, self._last_layers(plan.target.name))
                with self._job(step):
                    self._run.stop_if_cancelled()
                    before = self._known.get(layer.key)
                    self._make_layer(plan, layer, step)
                    self._rebuilt.add(layer.key)
                    self._leave(before, layer)
            if not self._refresh(layer):
                raise BuildError(
                    f"layer '{layer.name}' was built but is not in the engine",
                    hint="re-run the command; it resumes",
                )
            return dataclasses.replace(self._reused(layer, reason), outcome=outcome)

    def _pull(self, layer: Layer, step: str) -> bool:
        """Pull a layer from the registry cache; return False if the cache does not have it."""
        with self._job(step):
            self._run.stop_if_cancelled()
            if self._cache is None or not self._is_cached(layer):
                return False
            if not self._cache.fetch(layer.key, Meter(self._events, step)):
                return False
            self._engine.tag(f"{LAYERS}:{layer.key}", built_by(self._run.workspace.checkout), layer.key)
            return True

    def _waiting_for(self, step: str) -> Callable[[str], None]:
        def say(holder: str) -> None:
            whose = "another target of this run" if holder == self._run.name else f"run {holder or 'unknown'}"
            self._events.emit("step.task", step=step, text=f"waiting for {whose}, which builds this layer")

        return say

    @contextmanager
    def _job(self, step: str) -> Iterator[None]:
        """Occupy one of the run's job slots (--jobs) during the block."""
        if not self._working.acquire(blocking=False):
            self._events.emit("step.task", step=step, text="waiting for another layer to end (--jobs)")
            self._working.acquire()
        try:
            yield
        finally:
            self._working.release()

    def _is_cached(self, layer: Layer) -> bool:
        if self._cache is None or is_pulled(layer) or self._is_due(layer):
            return False
        return self._cache.has(layer.key)

    def _share(self, layer: Layer) -> None:
        """Store a layer in the shared cache if the cache lacks it or has an earlier build of it."""
        if self._cache is None or is_pulled(layer):
            return
        if layer.key in self._due or not self._cache.has(layer.key):
            self._cache.keep(layer.key)

    def _leave(self, before: Image | None, layer: Layer) -> None:
        """Tag an image that a rebuild has replaced, so that `builder clean` finds it."""
        if before and self._refresh(layer) and self._known[layer.key].id != before.id:
            name = before.id.removeprefix("sha256:")[:32]
            self._engine.tag(before.id, LEFTOVERS, f"{self._run.workspace.checkout}-{name}")

    def _refresh(self, layer: Layer) -> bool:
        self._known |= self._engine.layers()
        return self._has(layer)

    def _make_layer(self, plan: Plan, layer: Layer, step: str) -> None:
        make = {"base": self._make_base, "components": self._run_roles, "workload": self._build_workload}
        make[layer.kind](plan, layer, step)

    def _say(self, step: str) -> Callable[[str], None]:
        return lambda line: self._events.emit("step.log", step=step, text=line)

    @property
    def _of_run(self) -> dict[str, str]:
        """The label of containers and unfinished images, by which `sweep` finds them."""
        return {RUN_LABEL: self._run.name}

    def _make_base(self, plan: Plan, layer: Layer, step: str) -> None:
        mirror = self._mirror(plan)
        if plan.base_image:
            image = mirror.settings.rewrite(plan.base_image)
            base_image.fetch(self._engine, image, on_bytes=Meter(self._events, step))
            self._engine.tag(image, LAYERS, layer.key)
            return
        epoch = reference_time(plan)
        tar = bootstrap.make_root(
            self._run,
            plan.system,
            mirror,
            suites=plan.suites,
            say=self._say(step),
            note=lambda text: self._events.emit("note", text=f"{plan.system.name}: {text}"),
            epoch=epoch,
        )
        labels = self._of_run | labels_of(plan, layer, epoch)
        changes = ['CMD ["bash"]', *(f'LABEL "{k}"="{v}"' for k, v in labels.items())]
        image = self._engine.import_image(tar, changes=changes)
        tar.unlink()
        self._images.write(plan, layer, image, epoch=epoch)

    def _run_roles(self, plan: Plan, layer: Layer, step: str) -> None:
        parent = self._images.inspect(self._known[layer.parent].id)
        base = self._known.get(plan.layers[0].key)
        base_image = base.id if base else parent["Id"]
        mirror, epoch = self._mirror(plan), epoch_of(parent)
        mounts = playbook.mounts(
            self._run,
            self._root,
            plan,
            layer,
            mirror,
            base_image=base_image,
            compiler="" if base else layer.parent,
            engine=self._engine,
            epoch=epoch,
        )
        network = self._network(plan.target.name, base_image, mirror)
        with mounts as setup, self._container(parent["Id"], setup, network.result().mode) as container:
            listener = playbook.Listener(self._events, step)
            code = self.failed.play(container, setup.command, listener.line)
            self._run.stop_if_cancelled()
            if code != 0 or listener.failure:
                raise failure(f"layer '{layer.name}'", plan, listener, code, mirror)
            require_unchanged(self._root, [layer])
            listing = None
            if listener.deleted:  # the engine's layer has the times of deletions
                names = " ".join(listener.deleted)
                self._say(step)(f"packing the layer, because files below were deleted: {names}")
                listing = self._background.submit(self._images.list_files, parent)
            setup.keep_packages()
            image = self._engine.commit(
                container,
                labels=self._of_run | labels_of(plan, layer, epoch),
                environment=layer.environment,
                parent_config=parent.get("Config") or {},
            )
        self._images.write(plan, layer, image, epoch=epoch, parent=parent, listing=listing)

    def _network(self, target: str, image: str, mirror: Mirror) -> Future[BuildNetwork]:
        """Return the network of a target's build containers; start the network at the first call."""
        if target not in self._opened:
            self._opened[target] = self._networks.submit(
                open_network,
                self._engine,
                image,
                mirror.loopback_servers,
                folder=self._run.socket_dir,
                labels=self._of_run,
            )
        return self._opened[target]

    def _close_network(self, target: str) -> None:
        if opening := self._opened.pop(target, None):
            self._background.submit(lambda: opening.result().close())

    @contextmanager
    def _container(self, image: str, setup: playbook.ContainerSetup, network: str) -> Iterator[str]:
        container = self._engine.create(
            image,
            command=self.failed.command(setup.command),
            mounts=setup.mounts,
            tmpfs=setup.tmpfs,
            network=network,
            name=self.failed.new_name(),
            labels=self._of_run,
            **limits(self._engine),
        )
        try:
            with self.failed.kept(container):
                yield container
        finally:
            if container not in self.failed.containers:
                # Remove it in the background: removing a container with many files takes seconds.
                self._background.submit(self._engine.remove_container, container)

    def _build_workload(self, plan: Plan, layer: Layer, step: str) -> None:
        # The build context contains the bytes of all files, so a later edit of a file has no effect.
        context = workload.make_context(self._root, plan, (RUN_LABEL, self._run.name))
        require_unchanged(self._root, [layer])
        parent = self._images.inspect(self._known[layer.parent].id)
        epoch, listing = epoch_of(parent), self._background.submit(self._images.list_files, parent)
        image = workload.build(
            self._engine,
            context,
            plan,
            parent=parent["Id"],
            labels=self._of_run | labels_of(plan, layer, epoch),
            say=self._say(step),
            failed=self.failed,
        )
        self._images.write(plan, layer, image, epoch=epoch, parent=parent, listing=listing)

    def _artifact(self, plan: Plan, results: list[LayerResult]) -> Artifact:
        return Artifact(
            kind="container",
            target=plan.target.name,
            reference=self._known[plan.key].id,
            key=plan.key,
            layers=tuple(results),
        )


def sweep(engine: Engine, run_name: str, *, kept: Collection[str] = ()) -> int:
    """Remove the containers, except those in `kept`, and untagged images of one run; return their number."""
    label = f"{RUN_LABEL}={run_name}"
    containers_left = [found for found in engine.containers(label) if found["Id"] not in kept]
    for container in containers_left:
        engine.remove_container(container["Id"])
    untagged = [image for image in engine.labelled(label) if not image.tags]
    for image in sorted(untagged, key=lambda image: -image.created):
        engine.remove_image(image.id)
    return len(containers_left) + len(untagged)
