"""`builder clean`: what the factory left behind on this machine; says what, and removes it when told to."""

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builder.adapters.container.maker import sweep
from builder.adapters.engine.client import LAYERS, Engine
from builder.adapters.host.workspace import dead_runs, forget_run
from builder.app.context import Context, add_site, open_context, parser, print_table
from builder.app.dead_runs import dead_runs as dead_runs_in_accounts
from builder.errors import FactoryError
from builder.marks import CHECKOUT_LABEL
from builder.rehearsal import session
from builder.screen.text import size

_KEPT_RUNS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """One thing that nothing needs any more."""

    what: str
    why: str
    size_bytes: int
    remove: Callable[[], object]


def run(argv: Sequence[str]) -> int:
    options = parser("clean", "What the factory left behind. Shows it; --yes removes it.")
    options.add_argument("--yes", action="store_true", help="remove what is listed")
    options.add_argument(
        "--all", action="store_true", help="also every layer, cache and receipt that is still good"
    )
    add_site(options)
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    found = list(_leftovers(context, Engine(), everything=parsed.all))
    if not found:
        print("nothing to remove", file=sys.stderr)
        return 0
    print_table(("what", "why", "size"), [(one.what, one.why, size(one.size_bytes)) for one in found])
    if not parsed.yes:
        print(
            f"\nnothing was removed; to remove it: builder clean --yes{' --all' if parsed.all else ''}",
            file=sys.stderr,
        )
        return 0
    for one in found:
        one.remove()
    print(f"\nremoved: {len(found)}", file=sys.stderr)
    return 0


def _leftovers(context: Context, engine: Engine, *, everything: bool) -> Iterable[Leftover]:
    yield from _dead(context, engine)
    yield from _rehearsals(context, engine)
    yield from _accounts(context)
    yield from _layers(context, engine, everything=everything)
    yield from _folders(context, everything=everything)


def _dead(context: Context, engine: Engine) -> Iterable[Leftover]:
    for name in dead_runs(context.workspace):
        folder = context.workspace.scratch / name
        yield Leftover(
            what=f"run {name}",
            why="its process is gone",
            size_bytes=_size(folder),
            remove=partial(_forget, context, engine, name),
        )


def _forget(context: Context, engine: Engine, run: str) -> None:
    sweep(engine, run)
    forget_run(context.workspace, run)


def _rehearsals(context: Context, engine: Engine) -> Iterable[Leftover]:
    for name in session.dead(context.workspace):
        yield Leftover(
            what=f"rehearsal {name}",
            why="its process is gone",
            size_bytes=_size(session.files_of(context.workspace, name).folder),
            remove=partial(session.down, context.workspace, name, engine_url=engine.url),
        )


def _accounts(context: Context) -> Iterable[Leftover]:
    """What dead runs left in accounts and in rehearsals of one; without a journal nothing is loaded."""
    if not any((context.workspace.home / "journal").glob("*.ndjson")):
        return
    for dead in dead_runs_in_accounts(context):
        if dead.account is None:
            print(
                f"run {dead.run} may have left something at {dead.account_id}: builder clean --site aws",
                file=sys.stderr,
            )
            continue
        yield Leftover(
            what=f"run {dead.run} at {dead.account_id}",
            why="its process is gone",
            size_bytes=0,
            remove=partial(dead.clear, context, keep_complete=False),
        )


def _layers(context: Context, engine: Engine, *, everything: bool) -> Iterable[Leftover]:
    """Layers of this checkout that no plan of its catalog has; children first, or their parents stay."""
    needed = set() if everything else _needed_keys(context)
    images = sorted(engine.layers().items(), key=lambda item: -item[1].created)
    for key, image in images:
        mine = image.labels.get(CHECKOUT_LABEL) == context.workspace.checkout
        if everything or (mine and key not in needed):
            yield Leftover(
                what=f"layer {key[:12]}",
                why="asked for" if everything else "no target needs it",
                size_bytes=image.size_bytes,
                remove=partial(engine.remove_image, f"{LAYERS}:{key}"),
            )


def _needed_keys(context: Context) -> set[str]:
    return {layer.key for name in context.catalog.targets for layer in context.plan(name).layers}


def _folders(context: Context, *, everything: bool) -> Iterable[Leftover]:
    workspace = context.workspace
    runs = sorted((workspace.out / "runs").glob("*"))
    old = runs if everything else runs[:-_KEPT_RUNS]
    wanted = [(path, f"older than the last {_KEPT_RUNS} runs") for path in old]
    if everything:
        wanted += [(path, "asked for") for path in (workspace.home / "cache", workspace.out / "receipts")]
    for path, why in wanted:
        if path.exists():
            yield Leftover(
                what=str(path), why=why, size_bytes=_size(path), remove=partial(shutil.rmtree, path)
            )


def _size(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in folder.rglob("*"))
    except OSError as error:
        raise FactoryError(
            f"cannot read {error.filename}: {error.strerror}", hint="run it as root"
        ) from error
