"""Finds leftovers of builds that are no longer needed: runs, layers, caches, rehearsals, clusters.

While a run is in progress, no layers or caches are listed for removal.
"""

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from builder.adapters.ami import kept, retention
from builder.adapters.ami.family import regions_of
from builder.adapters.ami.ownership import builder_id, has_id
from builder.adapters.container.failed import prefix
from builder.adapters.container.maker import sweep
from builder.adapters.engine.client import LAYERS, LEFTOVERS, Engine, Image, built_by
from builder.adapters.host.receipts import unreadable
from builder.adapters.host.workspace import dead_runs, foreign_runs, forget_run, is_running, live_runs
from builder.adapters.registry import local
from builder.adapters.registry.blobs import BlobStore
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.dead_runs import dead_runs as dead_runs_in_accounts
from builder.catalog import require_sound
from builder.errors import FactoryError, MissingError
from builder.marks import CHECKOUT_LABEL, PARENT_LABEL, RUN_LABEL
from builder.rehearsal import cluster, session

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
        """The limit of `--older-than` as a timestamp; items used later are kept."""
        return time.time() - self.older_than_s if self.older_than_s is not None else float("inf")

    @property
    def kept_runs(self) -> int:
        if self.keep_last is not None:
            return self.keep_last
        return 0 if self.everything or self.older_than_s is not None else KEPT_RUNS


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """A removable item: name, reason, size, the function that removes it, and the run that left it."""

    name: str
    why: str
    size_bytes: int
    remove: Callable[[], object]
    run: str = ""


def find_leftovers(context: Context, engine: Engine, limits: Limits, *, is_idle: bool) -> Iterator[Leftover]:
    """Yield removable items; without `is_idle`, yield no layers and no caches: a run may use them."""
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
    yield from _clusters(context, engine)
    yield from _accounts(context)
    yield from _runs(context, limits)
    yield from _former_registry(context)
    if not is_idle:
        live = next(iter(live_runs(context.workspace)), "")
        print(f"run {live} is in progress: layers and caches are kept", file=sys.stderr)
        return
    yield from _checkpoints(context, limits)
    yield from _old_amis(context)
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


def _clusters(context: Context, engine: Engine) -> Iterable[Leftover]:
    for name in cluster.dead(context.workspace, engine):
        yield Leftover(
            name=f"cluster {name}",
            why="its machines do not all run",
            size_bytes=0,
            remove=partial(cluster.remove_dead, context.workspace, engine, name),
        )


def _accounts(context: Context) -> Iterable[Leftover]:
    """Yield the resources that dead runs left in AWS accounts; without a journal, import no AWS module."""
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


def _checkpoints(context: Context, limits: Limits) -> Iterable[Leftover]:
    """Yield this builder's AMI checkpoints in excess of checkpoints.keep_last in site.toml."""
    if not has_id(context.workspace):
        return
    keep_last = 0 if limits.everything else context.site.checkpoints.keep_last
    try:
        account = SiteAccount(context).running()
        found = kept.removable(account, builder_id(context.workspace), keep_last=keep_last) if account else []
    except MissingError as error:
        print(f"checkpoints of AMIs are kept: {error.message}; {error.hint}", file=sys.stderr)
        return
    why = "--all" if limits.everything else f"the newest {keep_last} of the layer are kept"
    for item in found:
        yield Leftover(
            name=f"checkpoint {item.id} of {item.layer}", why=why, size_bytes=0, remove=item.remove
        )


def _old_amis(context: Context) -> Iterable[Leftover]:
    """Yield the AMIs in excess of aws.keep_last in site.toml; report AMIs kept because they are in use."""
    settings = context.site.aws
    if not settings.keep_last:
        return
    try:
        account = SiteAccount(context).running()
        if account is None:
            return
        found = retention.surplus(
            account, regions_of(account), settings.parameters, keep_last=settings.keep_last
        )
    except MissingError as error:
        print(f"AMIs are kept: {error.message}; {error.hint}", file=sys.stderr)
        return
    for item in found:
        if item.use:
            print(f"AMI {item} of {item.target} is kept: {item.use}", file=sys.stderr)
            continue
        limit = f"the newest {settings.keep_last} in its region are kept"
        yield Leftover(
            name=f"snapshot {item} of {item.target}" if item.snapshot else f"AMI {item} of {item.target}",
            why="its AMI is deleted" if item.snapshot else limit,
            size_bytes=0,
            remove=item.remove,
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

    Child images come before their parents, because the engine does not remove an image with children.
    """
    needed = set() if limits.everything else _needed_keys(context)
    images = _Images(engine.images())
    found: list[tuple[Image, str, list[str]]] = []
    for image in images.by_id.values():
        tags = _all_tags(image) if limits.everything else _unneeded_tags(image, context, needed)
        if tags and (limits.everything or _used(image, engine, limits) < limits.before):
            found.append((image, "--all" if limits.everything else "no target needs it", tags))
        replaced = _replaced_tags(image, context)
        if replaced and _used(image, engine, limits) < limits.before:
            found.append((image, "replaced by --rebuild, or of a failed layer", replaced))
    held = images.held({tag for _, _, tags in found for tag in tags})
    for image, why, tags in sorted(found, key=lambda item: -item[0].created):
        yield Leftover(
            name=f"layer {tags[0].partition(':')[2][:12]}",
            why=why,
            size_bytes=0 if image.id in held else images.own_bytes(image),
            remove=partial(_remove_tags, engine, tags),
        )


def _remove_tags(engine: Engine, tags: Iterable[str]) -> None:
    for tag in tags:
        engine.remove_image(tag)


def _used(image: Image, engine: Engine, limits: Limits) -> float:
    """Return when an image was last tagged, if `--older-than` is given; otherwise when it was created."""
    if limits.older_than_s is None:
        return image.created
    record = engine.inspect_image(image.id) or {}
    try:
        tagged = datetime.fromisoformat((record.get("Metadata") or {}).get("LastTagTime") or "").timestamp()
    except ValueError:
        tagged = 0.0
    return max(image.created, tagged)


def _all_tags(image: Image) -> list[str]:
    """Return the layer tags of an image, and the tags that record which checkouts made or pulled it."""
    return [tag for tag in image.tags if tag.startswith((f"{LAYERS}:", built_by("")))]


def _unneeded_tags(image: Image, context: Context, needed: Collection[str]) -> list[str]:
    """Return the tags to remove from a layer of this checkout if no plan needs the layer's key.

    Earlier versions of the builder marked a layer with a label of the checkout instead of a tag. The tag with
    the layer's key is kept while another checkout uses the layer.
    """
    checkout = context.workspace.checkout
    tags = {tag: tag.partition(":")[2] for tag in _all_tags(image)}
    own = [tag for tag in tags if tag.startswith(f"{built_by(checkout)}:")]
    others = [tag for tag in tags if tag.startswith(built_by("")) and tag not in own]
    layers = [tag for tag in tags if tag.startswith(f"{LAYERS}:")]
    gone = [tag for tag in own if tags[tag] not in needed or f"{LAYERS}:{tags[tag]}" not in layers]
    if (own or image.labels.get(CHECKOUT_LABEL) == checkout) and not others:
        return [tag for tag in layers if tags[tag] not in needed] + gone
    return gone


def _replaced_tags(image: Image, context: Context) -> list[str]:
    """Return the tags with which builds of this checkout marked a replaced image for removal."""
    checkout = context.workspace.checkout
    start = f"{LEFTOVERS}:{checkout}-"
    if image.labels.get(CHECKOUT_LABEL) == checkout:
        start = f"{LEFTOVERS}:"
    return [tag for tag in image.tags if tag.startswith(start)]


class _Images:
    """All images of an engine, and the parent of each image."""

    def __init__(self, images: Iterable[Image]) -> None:
        self.by_id = {image.id: image for image in images}
        self._by_tag = {tag: image for image in self.by_id.values() for tag in image.tags}

    def below(self, image: Image) -> Image | None:
        """Return the parent image: as the engine records it, or the layer that the parent label names."""
        parent = image.labels.get(PARENT_LABEL, "")
        return self.by_id.get(image.parent) or self._by_tag.get(f"{LAYERS}:{parent}")

    def held(self, removed: Collection[str]) -> set[str]:
        """Return the IDs of images that remain without the removed tags, and of all their parent images."""
        parents = {image.parent for image in self.by_id.values()}
        held: set[str] = set()
        for image in self.by_id.values():
            if set(image.tags) - set(removed) or (not image.tags and image.id not in parents):
                below: Image | None = image
                while below is not None and below.id not in held:
                    held.add(below.id)
                    below = self.below(below)
        return held

    def own_bytes(self, image: Image) -> int:
        """Return the size of an image without its nearest tagged ancestor."""
        below = self.below(image)
        while below is not None and not below.tags:
            below = self.below(below)
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
