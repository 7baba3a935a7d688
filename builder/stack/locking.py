"""Update a lock: resolve missing and requested entries, verify unverified entries, drop unused entries.

Pure except for the resolver port. Keeps the old value of an entry that cannot be resolved.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from builder.errors import IntegrityError, MissingError
from builder.lock import (
    FIELDS,
    Answer,
    Entry,
    Lock,
    Want,
    all_wants,
    component_wants,
    in_other_regions,
    inputs_of,
    tool_wants,
    variants,
    wants,
)
from builder.members import members_of
from builder.model import Catalog, Download
from builder.ports import Resolver
from builder.stack.knowledge import Knowledge
from builder.stack.versions import parse

# The outcomes for a lock entry and their meanings, in the order of the report.
OUTCOMES: Mapping[str, str] = {
    "differs": "the source has another value; the locked value is kept",
    "missing": "not in the lock",
    "unverified": "in the lock, never compared with its source",
    "unreached": "in the lock since an earlier run; its source did not answer now",
    "added": "new in the lock",
    "updated": "locked with a new value",
    "dropped": "no longer referenced",
    "verified": "compared with its source",
    "unchanged": "already verified; not re-checked",
}
_BASE = ("ami", "image", "suite")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome for one lock entry; `found` is the source's value if it differs from the locked value."""

    want: Want
    what: str
    before: Entry | None = None
    after: Entry | None = None
    found: Entry | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Relocked:
    """The updated lock, and the outcome for every entry."""

    lock: Lock
    outcomes: tuple[Outcome, ...]

    def with_outcome(self, *what: str) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.what in what)


class Each(Protocol):
    """A function that applies an action to many items: one after another, as `map` does, or in parallel."""

    def __call__(self, action: Callable[[Want], Outcome], items: Sequence[Want], /) -> Iterable[Outcome]: ...


def relock(
    lock: Lock,
    wanted: Iterable[Want],
    resolver: Resolver,
    *,
    refresh: Callable[[Want], bool] = lambda _: False,
    recheck: bool = False,
    only: Container[Want] | None = None,
    each: Each = map,
) -> Relocked:
    """Resolve missing entries and entries that `refresh` selects; verify the other unverified entries.

    With `recheck`, compares every entry with its source instead, and adds or replaces none. With `only`, all
    other entries stay as they are and have no outcome.
    """
    everything = sorted(set(wanted))
    selected = [want for want in everything if only is None or want in only]

    def resolve_or_confirm(want: Want) -> Outcome:
        entry = lock.entries.get(want)
        if entry is None or (refresh(want) and not recheck):
            return _resolved(want, entry, resolver)
        return _confirmed(want, entry, resolver)

    outcomes: list[Outcome] = []
    asked: list[Want] = []
    for want in selected:
        entry = lock.entries.get(want)
        if entry is None and recheck:
            outcomes.append(Outcome(want=want, what="missing", reason="not in the lock"))
        elif entry is not None and entry.verified and not recheck and not refresh(want):
            outcomes.append(Outcome(want=want, what="unchanged", before=entry, after=entry))
        else:
            asked.append(want)
    outcomes += each(resolve_or_confirm, asked)
    if only is None and not recheck:
        gone = lock.entries.keys() - set(everything)
        outcomes += [Outcome(want=want, what="dropped", before=lock.entries[want]) for want in gone]
    entries = {outcome.want: outcome.after for outcome in outcomes if outcome.after}
    if only is not None:
        entries = {**lock.entries, **entries}
    if recheck:
        updated = Lock(entries={**lock.entries, **entries}, inputs=lock.inputs)
    else:
        updated = Lock(entries=entries, inputs=inputs_of(everything))
    return Relocked(lock=updated, outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.want)))


def _first(want: Want, entry: Entry | None) -> str:
    """Return the value of a lock entry that builds compare; "" if there is no entry."""
    return str(entry.values[FIELDS[want.kind][0]]) if entry else ""


def _resolved(want: Want, before: Entry | None, resolver: Resolver) -> Outcome:
    try:
        answer = resolver.resolve(want)
    except MissingError as error:
        return _unreached(want, before, error)
    except IntegrityError as error:
        return Outcome(want=want, what="differs", before=before, after=before, reason=error.message)
    found = answer.entry
    if want.published and _first(want, found) != want.published:
        return Outcome(
            want=want,
            what="differs",
            before=before or _published(want),
            after=before,
            found=found,
            reason="differs from the digest or commit that the catalog lists",
        )
    if before and _first(want, before) == _first(want, found):
        return _compared(want, before, answer)
    what = "unverified" if not found.verified else "added" if before is None else "updated"
    return Outcome(want=want, what=what, before=before, after=found, reason=answer.note)


def _published(want: Want) -> Entry:
    return Entry(values={FIELDS[want.kind][0]: want.published}, verified=False)


def _unreached(want: Want, before: Entry | None, error: MissingError) -> Outcome:
    """Keep the locked value of an entry with an unreachable source, or take the vendor's published digest."""
    after = before or (_published(want) if want.published else None)
    what = "missing" if after is None else "unreached" if after.verified else "unverified"
    return Outcome(want=want, what=what, before=before, after=after, reason=error.message)


def _confirmed(want: Want, before: Entry, resolver: Resolver) -> Outcome:
    try:
        answer = resolver.confirm(want, before)
    except MissingError as error:
        return _unreached(want, before, error)
    except IntegrityError as error:
        return Outcome(want=want, what="differs", before=before, after=before, reason=error.message)
    return _compared(want, before, answer)


def _compared(want: Want, before: Entry, answer: Answer) -> Outcome:
    found = answer.entry
    if _first(want, found) != _first(want, before):
        return Outcome(
            want=want, what="differs", before=before, after=before, found=found, reason=answer.note
        )
    verified = before.verified or found.verified
    after = Entry(values={**found.values, **before.values}, verified=verified)
    what = "verified" if found.verified else "unreached" if before.verified else "unverified"
    return Outcome(want=want, what=what, before=before, after=after, reason=answer.note)


def wanted(
    knowledge: Knowledge, tools: Iterable[Download], lock: Lock, *, region: str = ""
) -> tuple[Want, ...]:
    """Return all entries that the lock must have, with the vendors' published digests from the catalog.

    Includes source AMIs in the catalog's regions, in `region`, and in regions that the lock already has.
    """
    published = _published_digests(knowledge)
    required = all_wants(knowledge.catalog, tools, region=region)
    everything = {*required, *in_other_regions(lock, required)}
    return tuple(dataclasses.replace(want, published=published.get(want, "")) for want in sorted(everything))


def _published_digests(knowledge: Knowledge) -> dict[Want, str]:
    """Return vendors' digests and commits of releases, for the first matching download of a component."""
    catalog = knowledge.catalog
    found: dict[Want, str] = {}
    for target, flavour, arch, _ in variants(catalog):
        for name in members_of(catalog, target, flavour):
            component = catalog.components[name]
            if not component.pinned or knowledge.vocabulary.component(name) is None:
                continue
            release = knowledge.release(name, parse(catalog.stacks[flavour.stack].versions[name]))
            if release is None:
                continue
            of_component = component_wants(catalog, name, target, flavour, arch=arch)
            for kind, digest in (("archive", release.sha256), ("git", release.commit)):
                first = next((want for want in of_component if want.kind == kind), None)
                if first is not None and digest:
                    found[first] = digest
    return found


def names(catalog: Catalog, tools: Iterable[Download], *, region: str = "") -> dict[str, set[Want]]:
    """Map each name for --update (component, system, stack, target, tool, all) to its lock entries."""
    found: defaultdict[str, set[Want]] = defaultdict(set)
    for want in tool_wants(catalog, tools):
        _note(found, want)
    for target, flavour, arch, site in variants(catalog):
        in_catalog = wants(catalog, target, flavour, arch=arch, site=site)
        for want in {*in_catalog, *wants(catalog, target, flavour, arch=arch, site=site, region=region)}:
            _note(found, want)
            if want.kind not in _BASE and want.owner.startswith(("component ", "stack ")):
                found[flavour.stack].add(want)
        for name in members_of(catalog, target, flavour):
            for want in component_wants(catalog, name, target, flavour, arch=arch):
                _note(found, want)
    return dict(found)


def _note(found: defaultdict[str, set[Want]], want: Want) -> None:
    found[want.owner.rpartition(" ")[2]].add(want)
    found["all"].add(want)
