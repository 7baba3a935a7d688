"""Format the result of `builder lock`: counts, changed entries, then problems."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from builder.lock import LOCK_PATH, Entry, Want
from builder.screen.tables import table
from builder.screen.text import Look, count
from builder.stack.locking import OUTCOMES, Outcome, Relocked

# Outcomes that are listed entry by entry because the user has to act on them.
_ATTENTION = ("missing", "unverified", "unreached")
_MOST_ROWS = 15


def report(relocked: Relocked, *, look: Look, title: str, everything: bool) -> str:
    """Format the result of `builder lock`; `everything` lists all changed entries, even if there are many."""
    lines = [f"{LOCK_PATH}: {count(len(relocked.lock.entries), 'download')}{title}"]
    counts = Counter(outcome.what for outcome in relocked.outcomes)
    lines += [
        f"  {counts[what]:>4} {what:<11} {meaning}" for what, meaning in OUTCOMES.items() if counts[what]
    ]
    changes = [outcome for outcome in relocked.outcomes if outcome.before != outcome.after]
    if changes and (everything or len(changes) <= _MOST_ROWS):
        rows = [
            (
                change.want.kind,
                change.want.subject,
                shown(change.want, change.before),
                shown(change.want, change.after),
            )
            for change in changes
        ]
        lines += ["", table(("kind", "entry", "before", "after"), rows, look=look)]
    elif changes:
        lines += ["", f"{len(changes)} entries changed: git diff {LOCK_PATH}"]
    for what in _ATTENTION:
        lines += _grouped(what, relocked.with_outcome(what), look)
    notes = [outcome for outcome in relocked.with_outcome("verified") if outcome.reason]
    lines += [""] * bool(notes) + [f"{outcome.want} {outcome.reason}" for outcome in notes]
    return look.plain("\n".join(lines))


def _grouped(what: str, outcomes: Iterable[Outcome], look: Look) -> list[str]:
    """Return one line per reason, with its first lock entry and the number of its other lock entries."""
    groups: defaultdict[str, list[Want]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.reason].append(outcome.want)
    lines = [""] * bool(groups)
    for reason, (first, *others) in groups.items():
        more = f" and {len(others)} more (all: --json)" if others else ""
        words = look.paint(f"{what}: {reason}", "bold" if what == "missing" else "")
        lines.append(f"{words}: {first} ({first.owner}){more}")
    return lines


def compiled_lines(path: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return a line with the path of compiled requirements, and a line per package with a new version."""
    changes = [
        f"    {name} {before.get(name, '-')} → {after.get(name, '-')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    return [f"{path}: compiled from requirements.in, {count(len(after), 'package')}", *changes]


def shown(want: Want, entry: Entry | None) -> str:
    """Format a lock entry briefly: its shortened digest or id, and a readable name, date or count."""
    if entry is None:
        return "-"
    values = entry.values
    packages = count(int(values.get("packages", 0)), "package")
    words: Mapping[str, tuple[str, ...]] = {
        "ami": (str(values.get("id", "")), str(values.get("name", ""))),
        "archive": (str(values.get("sha256", ""))[:12],),
        "git": (str(values.get("commit", ""))[:12],),
        "image": (str(values.get("digest", ""))[:19],),
        "requirements": (str(values.get("sha256", ""))[:12], packages),
        "suite": (str(values.get("sha256", ""))[:12], str(values.get("date", ""))),
    }
    return " ".join(filter(None, (*words[want.kind], "" if entry.verified else "unverified")))
