"""Finds leftovers of builds that are no longer needed: runs, layers, caches, rehearsals.

While a run is in progress, layers and caches are not offered for removal.
"""

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builder.adapters.container.failed import prefix
from builder.adapters.container.maker import sweep
from builder.adapters.engine.client import LAYERS, LEFTOVERS, Engine, Image
from builder.adapters.host.receipts import unreadable
from builder.adapters.host.workspace import dead_runs, foreign_runs, forget_run, is_running, live_runs
from builder.adapters.registry import local
from builder.adapters.registry.blobs import BlobStore
from builder.app.context import Context
from builder.app.dead_runs import dead_runs as dead_runs_in_accounts
from builder.catalog import require_sound
from builder.errors import FactoryError
from builder.marks import CHECKOUT_LABEL, RUN_LABEL
from builder.rehearsal import session

KEPT_RUNS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of a cleanup; `everything` also removes layers, caches and receipts that are still valid."""

    everything: bool = False
    keep_last: int | None = None
    older_than_s: float | None = None
    max_bytes: int | None = None

    @property
    def before(self) -> float:
        """A timestamp: items used after it are kept."""
        return time.time() - self.older_than_s if self.older_than_s is not None else float("inf")

    @property
    def kept_runs(self) -> int:
        if self.keep_last is not None:
            return self.keep_last
        return 0 if self.everything or self.older_than_s is not None else KEPT_RUNS


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """A removable item: its name, the reason, its size and the call that removes it; `run` left it behind."""

    name: str
    why: str
    size_bytes: int
    remove: Callable[[], object]
    run: str = ""


def find_leftovers(context: Context, engine: Engine, limits: Limits, *, is_idle: bool) -> Iterator[Leftover]:
    """Yield what can be removed; `is_idle` means that no run uses layers and caches."""
    for run, host in foreign_runs(context.workspace).items():
        folder = context.workspace.scratch / run
        print(
            f"run {run} of host {host} is left alone: run builder clean there,"
            f" or remove {folder} if that host is gone",
            file=sys.stderr,
        )
    yield from _dead(context, engine)
    yield from _kept_after_failures(context, engine)
    yield from _rehearsals(context, engine)
    yield from _accounts(context)
    yield from _runs(context, limits)
    yield from _former_registry(context)
    if not is_idle:
        live = next(iter(live_runs(context.workspace)), "")
        print(f"run {live} is in progress: layers and caches are kept", file=sys.stderr)
        return
    yield from _layers(context, engine, limits)
    yield from _blobs(context, engine, limits)
    if limits.everything:
        yield from _folders(context)


def _dead(context: Context, engine: Engine) -> Iterable[Leftover]:
    for name in dead_runs(context.workspace):
        folder = context.workspace.scratch / name
        yield Leftover(
            name=f"run {name}",
            why="its process is gone",
            size_bytes=_size(folder),
            remove=partial(_forget, context, engine, name),
            run=name,
        )


def _forget(context: Context, engine: Engine, run: str) -> None:
    sweep(engine, run)
    forget_run(context.workspace, run)


def _kept_after_failures(context: Context, engine: Engine) -> Iterable[Leftover]:
    """Yield the containers that `builder build --keep-failed` kept in this checkout."""
    start = f"/{prefix(context.workspace)}"
    for record in engine.containers(RUN_LABEL):
        name, run = next(iter(record["Names"] or ()), ""), record["Labels"][RUN_LABEL]
        if name.startswith(start) and not (context.workspace.scratch / run).exists():
            yield Leftover(  # the run has ended: otherwise it is alive, or is removed as a whole
                name=f"container {name.removeprefix('/')} of run {run}",
                why="kept by --keep-failed",
                size_bytes=0,
                remove=partial(engine.remove_container, record["Id"]),
                run=run,
            )


def _rehearsals(context: Context, engine: Engine) -> Iterable[Leftover]:
    for name in session.dead(context.workspace):
        yield Leftover(
            name=f"rehearsal {name}",
            why="its process is gone",
            size_bytes=_size(session.files_of(context.workspace, name).folder),
            remove=partial(session.down, context.workspace, name, engine_url=engine.url),
        )


def _accounts(context: Context) -> Iterable[Leftover]:
    """Yield dead runs with leftovers in AWS accounts; without a journal, import no AWS module."""
    if not any((context.workspace.home / "journal").glob("*.ndjson")):
        return
    for problem in unreadable(context.workspace.out):
        print(f"AMIs are kept because a receipt cannot be read: {problem}", file=sys.stderr)
    for dead in dead_runs_in_accounts(context):
        if dead.account is None:
            print(
                f"run {dead.run} may have left resources in {dead.account_id}: run builder clean --site aws",
                file=sys.stderr,
            )
            continue
        yield Leftover(
            name=f"run {dead.run} in {dead.account_id}",
            why=f"{', '.join(dead.instances)} kept by --keep-failed"
            if dead.instances
            else "its process is gone",
            size_bytes=0,
            remove=partial(dead.clear, context, keep_complete=False),
            run=dead.run,
        )


def _runs(context: Context, limits: Limits) -> Iterable[Leftover]:
    """Yield logs, events and reports of runs, except the newest."""
    runs = sorted((context.workspace.out / "runs").glob("*"))
    for path in runs[: len(runs) - limits.kept_runs] if limits.kept_runs < len(runs) else ():
        if not is_running(context.workspace, path.name) and _last_used(path) < limits.before:
            yield Leftover(
                name=str(path),
                why="run log" + (f"; the newest {limits.kept_runs} are kept" if limits.kept_runs else ""),
                size_bytes=_size(path),
                remove=partial(shutil.rmtree, path),
            )


def _last_used(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _former_registry(context: Context) -> Iterable[Leftover]:
    folder = local.former_folder(context.workspace)
    if folder.exists():
        yield Leftover(
            name=str(folder),
            why="images of the registry that earlier versions of builder ran",
            size_bytes=_size(folder),
            remove=partial(local.remove_former, context.workspace),
        )


def _layers(context: Context, engine: Engine, limits: Limits) -> Iterable[Leftover]:
    """Yield layers of this checkout that no plan uses, and layers that a rebuild has replaced.

    Children come first, because the engine keeps their parents.
    """
    needed = set() if limits.everything else _needed_keys(context)
    images = {image.id: image for image in engine.images()}
    unneeded = {
        f"{LAYERS}:{key}": image
        for key, image in engine.layers().items()
        if limits.everything
        or (
            image.labels.get(CHECKOUT_LABEL) == context.workspace.checkout
            and key not in needed
            and image.created < limits.before
        )
    }
    unneeded |= _replaced(context, images, limits)
    held = _held(images, unneeded)
    for tag, image in sorted(unneeded.items(), key=lambda item: -item[1].created):
        repository, _, name = tag.partition(":")
        why = "--all" if limits.everything else "no target needs it"
        yield Leftover(
            name=f"layer {name[:12]}",
            why=why if repository == LAYERS else "replaced by --rebuild, or of a failed layer",
            size_bytes=0 if image.id in held else _own_bytes(image, images),
            remove=partial(engine.remove_image, tag),
        )


def _replaced(context: Context, images: Mapping[str, Image], limits: Limits) -> dict[str, Image]:
    """Return the images of this checkout that builds left for a cleanup, by tag."""
    return {
        tag: image
        for image in images.values()
        if image.labels.get(CHECKOUT_LABEL) == context.workspace.checkout and image.created < limits.before
        for tag in image.tags
        if tag.startswith(f"{LEFTOVERS}:")
    }


def _held(images: Mapping[str, Image], removed: Collection[str]) -> set[str]:
    """Return the IDs of images that remain without the removed tags, and of all images below them."""
    parents = {image.parent for image in images.values()}
    held: set[str] = set()
    for image in images.values():
        if set(image.tags) - set(removed) or (not image.tags and image.id not in parents):
            below: Image | None = image
            while below is not None and below.id not in held:
                held.add(below.id)
                below = images.get(below.parent)
    return held


def _own_bytes(image: Image, images: Mapping[str, Image]) -> int:
    """Return the bytes that an image adds to its nearest tagged ancestor."""
    below = images.get(image.parent)
    while below is not None and not below.tags:
        below = images.get(below.parent)
    return image.size_bytes - (below.size_bytes if below else 0)


def _needed_keys(context: Context) -> set[str]:
    require_sound(context.catalog)  # otherwise the layers of broken targets would be removed
    return {
        layer.key
        for target in context.catalog.targets.values()
        for flavour in target.flavours.values()
        for layer in context.plan_flavour(target, flavour).layers
    }


def _blobs(context: Context, engine: Engine, limits: Limits) -> Iterable[Leftover]:
    """Yield compressed layers that no image uses, and the least recently used ones that exceed the limit."""
    if limits.everything or not context.blobs.is_dir():
        return
    store = BlobStore(context.blobs)
    groups = store.unneeded(_diff_ids(engine), before=limits.before, max_bytes=limits.max_bytes)
    for why, blobs in groups.items():
        yield Leftover(
            name=f"compressed layers ({len(blobs)})",
            why=why,
            size_bytes=sum(blob.size_bytes for blob in blobs),
            remove=partial(store.remove, [blob.digest for blob in blobs]),
        )


def _diff_ids(engine: Engine) -> Collection[str]:
    """Return the diff IDs and the image IDs of all layers in the engine."""
    found = set()
    for image in engine.layers().values():
        record = engine.inspect_image(image.id)
        found |= {image.id, *(record["RootFS"]["Layers"] if record else ())}
    return found


def _folders(context: Context) -> Iterable[Leftover]:
    for path in (context.workspace.home / "cache", context.workspace.out / "receipts"):
        if path.exists():
            yield Leftover(
                name=str(path), why="--all", size_bytes=_size(path), remove=partial(shutil.rmtree, path)
            )


def _size(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in folder.rglob("*"))
    except OSError as error:
        raise FactoryError(
            f"cannot read {error.filename}: {error.strerror}", hint="sudo builder clean"
        ) from error
