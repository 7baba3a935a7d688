"""`builder lock`: resolves the downloads of builds, and compares the lock with its sources."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from builder import catalog as catalogs
from builder import lock as locks
from builder import tooling
from builder.adapters.aws.images import PublishedImages
from builder.adapters.host.workspace import write_atomically
from builder.adapters.upstream import mirror
from builder.adapters.upstream.resolver import Pool, SourceResolver, Wheels
from builder.app.account import environment_account
from builder.app.context import Context, add_json, open_context, parser, print_json
from builder.app.interrupts import interruptible
from builder.errors import IntegrityError, MissingError, UsageError, with_result
from builder.lock import FIELDS, LOCAL, LOCK_PATH, Entry, Want
from builder.model import System
from builder.screen.lock_report import report
from builder.screen.text import clip, count, look
from builder.sources import file_sha256
from builder.stack.locking import Outcome, Relocked, names, relock, wanted
from builder.tables import did_you_mean

_JOBS = 8
_SILENT_S = 10.0
_EPILOG = """\
exit codes: 0 the lock is complete; 1 --diff: the lock would change; 3 a source of a missing entry cannot be
reached; 7 a source differs from the lock, or --verify: an entry is missing"""


def run(argv: Sequence[str]) -> int:
    parsed = _parse(argv)
    context = open_context(parsed)
    catalogs.require_sound(context.catalog)  # otherwise the entries of broken targets would be dropped
    tools = tooling.read(context.root)
    named = names(context.catalog, tools)
    if parsed.names:
        print("\n".join(sorted(named)))
        return 0
    requested = {want for name in parsed.update for want in _find(name, named, context)}
    wants = wanted(context.knowledge, tools)
    before, cancelled = _text(context), threading.Event()
    with interruptible():
        relocked = relock(
            context.lock,
            wants,
            _resolver(context, wants, cancelled),
            refresh=lambda want: want in requested or _is_stale(context, want),
            recheck=parsed.verify,
            each=_Progress(Pool(jobs=_JOBS, cancelled=cancelled)),
        )
        text = locks.to_text(relocked.lock)
        changed = text != before
        if changed and not parsed.diff:
            _write(context, text, before=before)
    code = 1 if parsed.diff and changed else 0
    if not parsed.json:
        _print(relocked, parsed, changed=changed)
    found = _as_json(relocked, changed=changed, written=changed and not parsed.diff)
    with with_result(found):
        _refuse(relocked, context, verify=parsed.verify)
    if parsed.json:
        print_json(parsed, found, exit_code=code)
    return code


def options() -> argparse.ArgumentParser:
    found = parser(
        "lock",
        "Resolve what builds download: add missing entries to catalog/lock.json, verify unverified entries.",
    )
    found.epilog = _EPILOG
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument(
        "--update",
        action="append",
        default=[],
        metavar="NAME",
        help="resolve again what a component, system, stack, target or tool downloads; all: everything;"
        " may be repeated",
    )
    found.add_argument("--diff", action="store_true", help="show what would change; write nothing")
    found.add_argument("--verify", action="store_true", help="compare every entry with its source")
    add_json(found)
    found.add_argument(
        "--names", action="store_true", help="print the names that --update accepts, one per line"
    )
    return found


# Pairs of options that contradict each other: `--verify` writes what it verified.
_EXCLUDING = (
    ("verify", "update"),
    ("verify", "diff"),
    *(("names", other) for other in ("update", "diff", "verify", "json")),
)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parsed = options().parse_args(argv)
    for one, other in _EXCLUDING:
        if getattr(parsed, one) and getattr(parsed, other):
            raise UsageError(
                f"builder lock: --{one} and --{other} exclude each other", hint="leave out one of them"
            )
    return parsed


def _find(name: str, named: dict[str, set[Want]], context: Context) -> set[Want]:
    if name in named:
        return named[name]
    found = context.catalog
    if any(name in group for group in (found.components, found.systems, found.stacks, found.targets)):
        raise UsageError(
            f"--update {name}: has no lock entries of its own",
            hint="builder lock --names; packages of a distribution are locked with its system",
        )
    raise UsageError(f"--update {name}: no such name{did_you_mean(name, named)}", hint="builder lock --names")


def _is_stale(context: Context, want: Want) -> bool:
    """True if a requirements file changed since it was locked."""
    if want.kind != "requirements":
        return False
    path = context.root / want.subject
    return path.is_file() and context.lock.value(want.kind, want.subject) != file_sha256(path)


def _resolver(context: Context, wants: Iterable[Want], cancelled: threading.Event) -> SourceResolver:
    systems = {
        want.subject: system
        for system in context.catalog.systems.values()
        for want in wants
        if want.kind == "suite" and want.owner == f"system {system.name}"
    }
    connection = mirror.connection(context.site.mirror)
    return SourceResolver(
        root=context.root,
        mirror=connection,
        systems=systems,
        wheels=_wheels(context),
        images=PublishedImages(environment_account(context.site.aws.region, connection.network)),
        cancelled=cancelled,
    )


def _wheels(context: Context) -> Callable[[str], Sequence[Wheels]]:
    """Return a function that returns the `Wheels` of a requirements file, one per Python and architecture."""
    catalog, discovering = context.catalog, threading.Lock()

    @cache
    def mirror_of(system: str, stack: str) -> mirror.Mirror:
        return mirror.discover(context.site.mirror, catalog.systems[system], catalog.stacks[stack])

    def users(subject: str) -> Iterator[tuple[System, str, str]]:
        for target, flavour, arch, site in locks.variants(catalog):
            if site == LOCAL and Want("requirements", subject) in locks.wants(
                catalog, target, flavour, arch=arch
            ):
                yield catalog.systems[flavour.system], flavour.stack, arch

    def wheels(subject: str) -> Sequence[Wheels]:
        different = {(system.python, arch): (system.name, stack) for system, stack, arch in users(subject)}
        with discovering:
            return [
                Wheels(python=python, arch=arch, mirror=mirror_of(*names))
                for (python, arch), names in sorted(different.items())
            ]

    return wheels


def _text(context: Context) -> str:
    path = context.root / LOCK_PATH
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write(context: Context, text: str, *, before: str) -> None:
    path = context.root / LOCK_PATH
    if _text(context) != before:
        raise IntegrityError(f"{LOCK_PATH} was changed by another process", hint="builder lock")
    try:
        write_atomically(path, text)
    except OSError as error:
        raise MissingError(
            f"{LOCK_PATH} cannot be written: {error.strerror}; it is unchanged", hint=f"df -h {path.parent}"
        ) from error


class _Progress:
    """Progress on stderr: one line that is updated on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._look = look(sys.stderr, os.environ)

    def __call__(self, action: Callable[[Want], Outcome], items: Sequence[Want], /) -> Iterator[Outcome]:
        printed = time.monotonic()
        try:
            for number, outcome in enumerate(self._pool(action, items), start=1):
                text = f"resolved {number} of {len(items)}: {outcome.want}"
                if self._look.live:
                    self._rewrite(text)
                elif time.monotonic() - printed > _SILENT_S:
                    printed = time.monotonic()
                    print(text, file=sys.stderr, flush=True)
                yield outcome
        finally:
            if self._look.live and items:
                self._rewrite("")

    def _rewrite(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{clip(text, self._look.width - 1)}")
        sys.stderr.flush()


def _print(relocked: Relocked, parsed: argparse.Namespace, *, changed: bool) -> None:
    title = " (nothing is written)" if parsed.diff else "" if changed else ", unchanged"
    print(report(relocked, look=look(sys.stdout, os.environ), title=title, everything=parsed.diff))


def _as_json(relocked: Relocked, *, changed: bool, written: bool) -> dict[str, object]:
    def values(entry: Entry | None) -> dict[str, object] | None:
        return {**entry.values, "verified": entry.verified} if entry else None

    outcomes = [
        {
            "kind": outcome.want.kind,
            "subject": outcome.want.subject,
            "owner": outcome.want.owner,
            "outcome": outcome.what,
            "reason": outcome.reason,
            "before": values(outcome.before),
            "after": values(outcome.after),
            "found": values(outcome.found),
        }
        for outcome in relocked.outcomes
    ]
    return {"lock": LOCK_PATH, "changed": changed, "written": written, "outcomes": outcomes}


def _refuse(relocked: Relocked, context: Context, *, verify: bool) -> None:
    """Raise an error if a source differs from the lock or an entry is missing."""
    differing, missing = relocked.with_outcome("differs"), relocked.with_outcome("missing")
    if differing:
        owners = sorted({outcome.want.owner.rpartition(" ")[2] for outcome in differing})
        raise IntegrityError(
            f"{LOCK_PATH}: the content of {count(len(differing), 'source')} differs from the lock:"
            f" {differing[0].want}",
            hint="find out why the source changed; to accept the change: builder lock"
            + "".join(f" --update {owner}" for owner in owners),
            details="\n".join(_difference(outcome, context) for outcome in differing),
        )
    if missing:
        message = f"{LOCK_PATH}: {count(len(missing), 'download')} missing: {missing[0].want}"
        if verify:
            raise IntegrityError(message, hint="builder lock")
        raise MissingError(
            message,
            hint="run `builder lock` on a host with network access, or set mirror.prefixes in site.toml",
        )


def _difference(outcome: Outcome, context: Context) -> str:
    first = FIELDS[outcome.want.kind][0]
    has_address = outcome.want.kind in ("archive", "git")
    facts = {
        "expected": f"{first} {outcome.before.values[first]}" if outcome.before else "",
        "actual": f"{first} {outcome.found.values[first]}" if outcome.found else "",
        "url": context.site.mirror.rewrite(outcome.want.subject.split()[0]) if has_address else "",
        "why": outcome.reason,
    }
    lines = [f"  {name:<9} {text}" for name, text in facts.items() if text]
    return "\n".join([f"{outcome.want} ({outcome.want.owner})", *lines])
