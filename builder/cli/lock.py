"""`builder lock`: resolves what builds download, and checks that the lock is still true."""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from builder import lock as locks
from builder import tooling
from builder.adapters.aws.images import PublishedImages
from builder.adapters.host.workspace import write_atomically
from builder.adapters.upstream import mirror
from builder.adapters.upstream.resolver import Pool, SourceResolver, Wheels
from builder.app.account import environment_account
from builder.app.context import Context, open_context, parser
from builder.app.interrupts import interruptible
from builder.errors import IntegrityError, MissingError, UsageError
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
exit codes: 0 the lock is whole; 1 with --diff, it would change; 3 something could not be locked from here;
7 a source holds something else than the lock (with --verify also: something is not in the lock)"""


def run(argv: Sequence[str]) -> int:
    parsed = _parse(argv)
    context = open_context(parsed)
    tools = tooling.read(context.root)
    named = names(context.catalog, tools)
    if parsed.names:
        print("\n".join(sorted(named)))
        return 0
    asked = {want for name in parsed.update for want in _find(name, named, context)}
    wants = wanted(context.knowledge, tools)
    before, cancelled = _text(context), threading.Event()
    with interruptible():
        relocked = relock(
            context.lock,
            wants,
            _resolver(context, wants, cancelled),
            refresh=lambda want: want in asked or _is_stale(context, want),
            recheck=parsed.verify,
            each=_Progress(Pool(jobs=_JOBS, cancelled=cancelled)),
        )
        text = locks.to_text(relocked.lock)
        changed = text != before
        if changed and not parsed.diff:
            _write(context, text, before=before)
    _print(relocked, parsed, changed=changed)
    _refuse(relocked, context, verify=parsed.verify)
    return 1 if parsed.diff and changed else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    options = parser(
        "lock",
        "Resolve what builds download into catalog/lock.json: what is missing, and what was never verified.",
    )
    options.epilog = _EPILOG
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument(
        "--update",
        action="append",
        default=[],
        metavar="NAME",
        help="resolve anew what a component, system, stack, target or tool downloads, or all; repeatable",
    )
    options.add_argument("--diff", action="store_true", help="show what would change, write nothing")
    options.add_argument("--verify", action="store_true", help="compare every entry with its source")
    options.add_argument("--json", action="store_true", help="as JSON")
    options.add_argument("--names", action="store_true", help="the names that --update takes, one a line")
    parsed = options.parse_args(argv)
    if parsed.verify and parsed.update:
        raise UsageError("builder lock: --verify takes nothing new, --update does", hint="give one of them")
    return parsed


def _find(name: str, named: dict[str, set[Want]], context: Context) -> set[Want]:
    if name in named:
        return named[name]
    found = context.catalog
    if any(name in group for group in (found.components, found.systems, found.stacks, found.targets)):
        raise UsageError(
            f"--update {name}: it downloads nothing that is locked for itself",
            hint=f"what comes from a package archive goes by its system: {', '.join(sorted(found.systems))}",
        )
    raise UsageError(f"--update {name}: no such name{did_you_mean(name, named)}", hint="builder lock --names")


def _is_stale(context: Context, want: Want) -> bool:
    """The digest of a file of the checkout follows the file."""
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
    """For a requirements file: every Python and machine it is installed for, and where the wheels are."""
    catalog, discovering = context.catalog, threading.Lock()

    @cache
    def place(system: str, stack: str) -> mirror.Mirror:
        return mirror.discover(context.site.mirror, catalog.systems[system], catalog.stacks[stack])

    def users(subject: str) -> Iterator[tuple[System, str, str]]:
        for target, flavour, arch, site in locks.variants(catalog):
            if site == LOCAL and Want("requirements", subject) in locks.wants(
                catalog, target, flavour, arch=arch
            ):
                yield catalog.systems[flavour.system], flavour.stack, arch

    def wheels(subject: str) -> Sequence[Wheels]:
        different = {(one.python, arch): (one.name, stack) for one, stack, arch in users(subject)}
        with discovering:
            return [
                Wheels(python=python, arch=arch, mirror=place(*names))
                for (python, arch), names in sorted(different.items())
            ]

    return wheels


def _text(context: Context) -> str:
    path = context.root / LOCK_PATH
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write(context: Context, text: str, *, before: str) -> None:
    path = context.root / LOCK_PATH
    if _text(context) != before:
        raise IntegrityError(f"{LOCK_PATH} was changed by somebody else meanwhile", hint="builder lock")
    try:
        write_atomically(path, text)
    except OSError as error:
        raise MissingError(
            f"{LOCK_PATH} cannot be written: {error.strerror}; it is as it was", hint=f"df -h {path.parent}"
        ) from error


class _Progress:
    """Says on stderr how far it is: one line that changes on a terminal, elsewhere a line now and then."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._look = look(sys.stderr, os.environ)

    def __call__(self, action: Callable[[Want], Outcome], items: Sequence[Want], /) -> Iterator[Outcome]:
        said = time.monotonic()
        try:
            for number, outcome in enumerate(self._pool(action, items), start=1):
                text = f"asked for {number} of {len(items)}: {outcome.want}"
                if self._look.live:
                    self._rewrite(text)
                elif time.monotonic() - said > _SILENT_S:
                    said = time.monotonic()
                    print(text, file=sys.stderr, flush=True)
                yield outcome
        finally:
            if self._look.live and items:
                self._rewrite("")

    def _rewrite(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{clip(text, self._look.width - 1)}")
        sys.stderr.flush()


def _print(relocked: Relocked, parsed: argparse.Namespace, *, changed: bool) -> None:
    if parsed.json:
        print(json.dumps(_as_json(relocked, changed=changed, written=changed and not parsed.diff), indent=2))
        return
    title = " (nothing is written)" if parsed.diff else "" if changed else ", as it was"
    print(report(relocked, look=look(sys.stdout, os.environ), title=title, everything=parsed.diff))


def _as_json(relocked: Relocked, *, changed: bool, written: bool) -> dict[str, object]:
    def values(entry: Entry | None) -> dict[str, object] | None:
        return {**entry.values, "verified": entry.verified} if entry else None

    outcomes = [
        {
            "kind": one.want.kind,
            "subject": one.want.subject,
            "owner": one.want.owner,
            "outcome": one.what,
            "reason": one.reason,
            "before": values(one.before),
            "after": values(one.after),
            "found": values(one.found),
        }
        for one in relocked.outcomes
    ]
    return {"lock": LOCK_PATH, "changed": changed, "written": written, "outcomes": outcomes}


def _refuse(relocked: Relocked, context: Context, *, verify: bool) -> None:
    """Ends the command where the lock is not true, or not whole."""
    differing, missing = relocked.those("differs"), relocked.those("missing")
    if differing:
        owners = sorted({one.want.owner.rpartition(" ")[2] for one in differing})
        raise IntegrityError(
            f"{LOCK_PATH}: {count(len(differing), 'source')} with something else than is locked:"
            f" {differing[0].want}",
            hint="find out who changed it and why; if it is right: builder lock"
            + "".join(f" --update {owner}" for owner in owners),
            details="\n".join(_difference(one, context) for one in differing),
        )
    if missing:
        message = f"{LOCK_PATH}: {count(len(missing), 'download')} not in it: {missing[0].want}"
        if verify:
            raise IntegrityError(message, hint="builder lock")
        raise MissingError(
            message,
            hint="run it where the sources can be reached, or name a mirror: mirror.prefixes in site.toml",
        )


def _difference(one: Outcome, context: Context) -> str:
    first = FIELDS[one.want.kind][0]
    has_address = one.want.kind in ("archive", "git")
    facts = {
        "expected": f"{first} {one.before.values[first]}" if one.before else "",
        "actual": f"{first} {one.found.values[first]}" if one.found else "",
        "url": context.site.mirror.rewrite(one.want.subject.split()[0]) if has_address else "",
        "why": one.reason,
    }
    lines = [f"  {name:<9} {text}" for name, text in facts.items() if text]
    return "\n".join([f"{one.want} ({one.want.owner})", *lines])
