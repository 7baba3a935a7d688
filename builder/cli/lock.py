"""`builder lock`: resolves the downloads of builds, and compares the lock with its sources."""

import argparse
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from builder import catalog as catalogs
from builder import tooling
from builder.adapters.upstream.resolver import Pool
from builder.app.context import (
    Context,
    add_json,
    add_site,
    add_targets,
    find_targets,
    open_context,
    parser,
    print_json,
)
from builder.app.interrupts import interruptible
from builder.app.locking import Request, Result, update_lock
from builder.errors import IntegrityError, MissingError, UsageError, with_result
from builder.lock import FIELDS, LOCK_PATH, Entry, Want
from builder.screen.lock_report import compiled_lines, report
from builder.screen.text import clip, count, look
from builder.stack.locking import Outcome, names
from builder.tables import did_you_mean

_JOBS = 8
_SILENT_S = 10.0
_EXIT_CODES = (
    "exit codes: 0 the lock has everything that was asked for; 1 --diff: the lock would change;"
    " 2 requirements contradict each other or a stack; 3 the source of a missing entry cannot be reached;"
    " 7 a source differs from the lock, or --verify: an entry is missing"
)


def run(argv: Sequence[str]) -> int:
    parsed = _parse(argv)
    context = open_context(parsed)
    if not _given(parsed) and not parsed.update:
        catalogs.require_sound(context.catalog)  # otherwise the entries of broken targets would be dropped
    named = names(context.catalog, tooling.read(context.root), region=context.site.aws.region)
    if parsed.names:
        print("\n".join(sorted(named)))
        return 0
    request = Request(
        targets=tuple(find_targets(context, parsed, verb="lock")) if _given(parsed) else (),
        update=frozenset(want for name in parsed.update for want in _find(name, named, context)),
        recheck=parsed.verify,
        writes=not parsed.diff,
    )
    cancelled = threading.Event()
    with interruptible():
        progress = _Progress(Pool(jobs=_JOBS, cancelled=cancelled))
        result = update_lock(context, request, each=progress, cancelled=cancelled)
    code = 1 if parsed.diff and result.changed else 0
    if not parsed.json:
        _print(result, context, parsed)
    found = _as_json(result, context, written=result.changed and not parsed.diff)
    with with_result(found):
        _refuse(result, context, parsed)
    if parsed.json:
        print_json(parsed, found, exit_code=code)
    return code


def options() -> argparse.ArgumentParser:
    found = parser(
        "lock",
        "Lock what builds download. With targets: compile their changed requirements.in and add the missing"
        " entries of these targets only. With --update: change the named entries only. Without both: add all"
        " missing entries, verify unverified ones, drop unreferenced ones.",
    )
    found.epilog = f"{found.epilog}\n\n{_EXIT_CODES}"
    add_targets(found)
    found.add_argument(
        "--update",
        action="append",
        default=[],
        metavar="NAME",
        help="resolve again the entries of a component, system, stack, target or tool, or the entry"
        " 'KIND SUBJECT'; all: everything; may be repeated",
    )
    found.add_argument("--diff", action="store_true", help="show what would change; write nothing")
    found.add_argument("--verify", action="store_true", help="compare every entry with its source")
    add_json(found)
    found.add_argument(
        "--names", action="store_true", help="print the names that --update accepts, one per line"
    )
    add_site(found)
    return found


# Pairs of options that exclude each other. `--verify` marks entries as verified, so it writes the lock.
_EXCLUDING = (
    ("verify", "update"),
    ("verify", "diff"),
    *(("names", other) for other in ("update", "diff", "verify", "json")),
)


def _given(parsed: argparse.Namespace) -> bool:
    return bool(parsed.targets or parsed.target)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parsed = options().parse_args(argv)
    for one, other in _EXCLUDING:
        if getattr(parsed, one) and getattr(parsed, other):
            raise UsageError(
                f"builder lock: --{one} and --{other} exclude each other",
                hint=f"leave out --{one} or --{other}",
            )
    without_targets = [name for name in ("update", "names") if getattr(parsed, name)]
    if _given(parsed) and without_targets:
        raise UsageError(
            f"builder lock: --{without_targets[0]} and targets exclude each other",
            hint=f"leave out --{without_targets[0]} or the targets",
        )
    only_with_targets = [name for name in ("flavour", "site") if getattr(parsed, name)]
    if only_with_targets and not _given(parsed):
        raise UsageError(
            f"builder lock: --{only_with_targets[0]} needs a target; without targets, all targets are locked",
            hint=f"builder lock TARGET --{only_with_targets[0]} {getattr(parsed, only_with_targets[0])}",
        )
    return parsed


def _find(name: str, named: Mapping[str, set[Want]], context: Context) -> set[Want]:
    if name in named:
        return named[name]
    kind, _, subject = name.partition(" ")
    if Want(kind, subject) in named["all"]:
        return {Want(kind, subject)}
    found = context.catalog
    if name in found.aliases:
        return _find(found.aliases[name], named, context)
    if any(name in group for group in (found.components, found.systems, found.stacks, found.targets)):
        raise UsageError(
            f"--update {name}: has no lock entries of its own",
            hint="builder lock --names; a distribution's packages belong to its system, such as debian-12",
        )
    raise UsageError(f"--update {name}: no such name{did_you_mean(name, named)}", hint="builder lock --names")


class _Progress:
    """Progress on stderr: on a terminal one line that is updated, otherwise a new line every ten seconds."""

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


def _print(result: Result, context: Context, parsed: argparse.Namespace) -> None:
    title = " (nothing is written)" if parsed.diff else "" if result.changed else ", unchanged"
    style = look(sys.stdout, os.environ)
    print(report(result.relocked, look=style, title=title, everything=parsed.diff))
    for new in result.compiled:
        print(
            "\n".join(["", *compiled_lines(str(new.path.relative_to(context.root)), new.before, new.after)])
        )
    for path in result.golden:
        print(f"wrote {path.relative_to(context.root)}")
    for name, flavours in result.unlocked_flavours.items():
        print(
            f"note: {name} has more flavours, which are not locked: {', '.join(flavours)}:"
            f" builder lock {name} --flavour {flavours[0]}",
            file=sys.stderr,
        )


def _as_json(result: Result, context: Context, *, written: bool) -> dict[str, object]:
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
        for outcome in result.relocked.outcomes
    ]
    return {
        "lock": LOCK_PATH,
        "changed": result.changed,
        "written": written,
        "outcomes": outcomes,
        "compiled": [
            {"file": str(new.path.relative_to(context.root)), "before": new.before, "after": new.after}
            for new in result.compiled
        ],
        "golden": [str(path.relative_to(context.root)) for path in result.golden],
    }


def _refuse(result: Result, context: Context, parsed: argparse.Namespace) -> None:
    """Raise an error if a download source differs from its lock entry or an entry is missing."""
    differing = result.relocked.with_outcome("differs")
    missing = result.relocked.with_outcome("missing")
    if differing:
        raise IntegrityError(
            f"{LOCK_PATH}: the content of {count(len(differing), 'source')} differs from the lock:"
            f" {differing[0].want}",
            hint="find out why the source changed; to accept the change: builder lock"
            + "".join(f" --update {shlex.quote(str(outcome.want))}" for outcome in differing),
            details="\n".join(_difference(outcome, context) for outcome in differing),
        )
    if missing:
        message = f"{LOCK_PATH}: {count(len(missing), 'download')} missing: {missing[0].want}"
        if parsed.verify:
            raise IntegrityError(
                message, hint=shlex.join(["builder", "lock", *parsed.targets, *parsed.target])
            )
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
