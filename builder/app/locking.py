"""Updates a repository's lock: compiles requirements, queries sources, writes lock and golden plans."""

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from builder import lock as locks
from builder import tooling
from builder.adapters.aws.images import PublishedImages
from builder.adapters.host.workspace import write_atomically
from builder.adapters.upstream import mirror
from builder.adapters.upstream.compiling import Installation, Source, compile_lock
from builder.adapters.upstream.mirror import Mirror
from builder.adapters.upstream.resolver import SourceResolver, Wheels
from builder.app.account import environment_account
from builder.app.context import Context
from builder.app.golden import update_golden_plans
from builder.errors import CatalogError, IntegrityError, MissingError
from builder.lock import LOCAL, LOCK_PATH, Lock, Want
from builder.model import Flavour, System, Target
from builder.plan import find_target
from builder.requirements import is_outdated, parse_requirements, read_requirements, versions_of
from builder.sources import file_sha256
from builder.stack.locking import Each, Relocked, relock, wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Lock entries to add or to resolve again; without targets and `update`, all entries of the catalog."""

    targets: tuple[str, ...] = ()
    update: frozenset[Want] = frozenset()  # entries to resolve again
    recheck: bool = False  # compare every entry with its source, change none
    writes: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """Compiled requirements lock file of a stack or workload, with the package versions before and after."""

    path: Path
    text: str
    before: Mapping[str, str]
    after: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    relocked: Relocked
    changed: bool
    compiled: tuple[Compiled, ...] = ()
    golden: tuple[Path, ...] = ()
    unlocked_flavours: Mapping[str, Sequence[str]] = field(default_factory=dict)  # others of the targets


def update_lock(context: Context, request: Request, *, each: Each, cancelled: threading.Event) -> Result:
    """Update a repository's lock; write compiled requirements first, then the lock, then golden plans."""
    region = context.site.aws.region
    wants = wanted(context.knowledge, tooling.read(context.root), context.lock, region=region)
    targets = [find_target(context.catalog, name) for name in request.targets]
    only = {*request.update, *(want for target in targets for want in _wants_of(context, target))}
    before = text_of(context)
    mirrors = _Mirrors(context)
    compiled = () if request.recheck else tuple(_compile(context, request, targets, mirrors, cancelled))
    if request.writes:
        for new in compiled:
            write_atomically(new.path, new.text)
    relocked = relock(
        context.lock,
        wants,
        _resolver(context, wants, mirrors, cancelled),
        refresh=lambda want: want in request.update or _is_stale(context, want),
        recheck=request.recheck,
        only=only if targets or request.update else None,
        each=each,
    )
    if context.catalog.broken:  # `inputs` covers the whole catalog
        kept = dataclasses.replace(relocked.lock, inputs=context.lock.inputs)
        relocked = dataclasses.replace(relocked, lock=kept)
    text = locks.to_text(relocked.lock)
    if text != before and request.writes:
        _write(context, text, before=before)
    golden = _update_golden(context, request, compiled) if request.writes and not request.recheck else ()
    return Result(
        relocked=relocked,
        changed=text != before or any(new.before != new.after for new in compiled),
        compiled=compiled,
        golden=golden,
        unlocked_flavours=_unlocked_flavours(context, targets, relocked.lock),
    )


def _update_golden(context: Context, request: Request, compiled: Sequence[Compiled]) -> tuple[Path, ...]:
    """Write the golden plans of requested targets and of targets whose requirements were compiled."""
    subjects = {new.path.relative_to(context.root).as_posix() for new in compiled}
    names = {
        target.name
        for target in context.catalog.targets.values()
        if subjects & {*_subjects(context, [target])}
    }
    return tuple(update_golden_plans(context, names.union(request.targets)))


def _wants_of(context: Context, target: Target) -> set[Want]:
    """Return the lock entries for builds of a target at the site, on every architecture of its system."""
    return _wants_of_flavour(context, target, context.flavour_of(target))


def _wants_of_flavour(context: Context, target: Target, flavour: Flavour) -> set[Want]:
    site = locks.building_site(context.catalog, target, flavour, site=context.site_name)
    return {
        want
        for arch in context.catalog.systems[flavour.system].arches
        for want in locks.wants(
            context.catalog, target, flavour, arch=arch, site=site, region=context.site.aws.region
        )
    }


def text_of(context: Context) -> str:
    path = context.root / LOCK_PATH
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write(context: Context, text: str, *, before: str) -> None:
    path = context.root / LOCK_PATH
    if text_of(context) != before:
        raise IntegrityError(f"{LOCK_PATH} was changed by another process", hint="builder lock")
    try:
        write_atomically(path, text)
    except OSError as error:
        raise MissingError(
            f"{LOCK_PATH} cannot be written: {error.strerror}; it is unchanged", hint=f"df -h {path.parent}"
        ) from error


def _unlocked_flavours(context: Context, targets: Iterable[Target], lock: Lock) -> dict[str, Sequence[str]]:
    """Return the flavours that still lack lock entries because they were not requested, by target."""
    found = {
        target.name: [
            flavour.name
            for flavour in target.flavours.values()
            if flavour != context.flavour_of(target)
            and not _wants_of_flavour(context, target, flavour) <= lock.entries.keys()
        ]
        for target in targets
        if not context.flavour
    }
    return {name: flavours for name, flavours in found.items() if flavours}


# Python requirements


def _is_stale(context: Context, want: Want) -> bool:
    """Return True if a requirements file changed since it was locked."""
    if want.kind != "requirements":
        return False
    path = context.root / want.subject
    return path.is_file() and context.lock.value(want.kind, want.subject) != file_sha256(path)


def _compile(
    context: Context,
    request: Request,
    targets: Sequence[Target],
    mirrors: "_Mirrors",
    cancelled: threading.Event,
) -> Iterator[Compiled]:
    """Compile each requirements.in of the requested targets (or of all) that changed or is to be updated."""
    everything = list(_subjects(context, context.catalog.targets.values()))
    asked = set(_subjects(context, targets) if targets or request.update else everything)
    fresh: dict[str, Mapping[str, str]] = {}  # versions of the locks that are compiled here
    for subject in everything:
        path = context.root / subject
        source = Source(path.with_suffix(".in"), PurePosixPath(subject).with_suffix(".in").as_posix())
        is_update = Want("requirements", subject) in request.update
        if not source.path.is_file() or not (is_update or subject in asked):
            continue
        try:
            if not is_outdated(path) and not is_update:
                continue
        except ValueError as error:
            raise CatalogError([f"{source}: {error}"], hint=f"correct {source}") from error
        before = _versions_in(path)
        text = compile_lock(
            source,
            list(_installations(context, subject, mirrors, fresh)),
            keep={} if is_update else before,
            cancelled=cancelled,
        )
        fresh[subject] = versions_of(parse_requirements(text))
        yield Compiled(path=path, text=text, before=before, after=fresh[subject])


def _subjects(context: Context, targets: Iterable[Target]) -> Iterator[str]:
    """Yield the requirements lock files of the targets' stacks, then those of the targets' workloads."""
    found = list(targets)
    names = {flavour.stack for target in found for flavour in target.flavours.values()}
    yield from sorted({context.catalog.stacks[name].requirements_file for name in names} - {""})
    yield from sorted(
        f"containers/{name}/requirements.lock" for name in {target.workload for target in found} - {""}
    )


def _versions_in(lock: Path) -> dict[str, str]:
    """Return the versions in a requirements lock file; nothing if the file is missing or invalid."""
    try:
        return versions_of(read_requirements(lock))
    except (FileNotFoundError, ValueError):
        return {}


def _installations(
    context: Context, subject: str, mirrors: "_Mirrors", fresh: Mapping[str, Mapping[str, str]]
) -> Iterator[Installation]:
    """Yield each combination of Python version, architecture and stack that installs a lock file."""
    seen = set()
    for _, flavour, arch in _users(context, subject):
        system, stack = context.catalog.systems[flavour.system], context.catalog.stacks[flavour.stack]
        if (system.python, arch, stack.name) in seen:
            continue
        seen.add((system.python, arch, stack.name))
        below = stack.requirements_file
        provided = fresh.get(below) or versions_of(stack.requirements)
        yield Installation(
            wheels=Wheels(python=system.python, arch=arch, mirror=mirrors.of(system.name, stack.name)),
            stack=stack.name,
            provided={} if subject == below else provided,
        )


def _users(context: Context, subject: str) -> Iterator[tuple[Target, Flavour, str]]:
    """Yield (target, flavour, architecture) of every build that installs a requirements file."""
    for target, flavour, arch, site in locks.variants(context.catalog):
        if site == LOCAL and Want("requirements", subject) in locks.wants(
            context.catalog, target, flavour, arch=arch
        ):
            yield target, flavour, arch


class _Mirrors:
    """Finds the package mirror of each (system, stack) pair once; thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._discovering = threading.Lock()
        self._found: dict[tuple[str, str], Mirror] = {}

    def of(self, system: str, stack: str) -> Mirror:
        catalog, settings = self._context.catalog, self._context.site.mirror
        with self._discovering:
            if (system, stack) not in self._found:
                found = mirror.discover(settings, catalog.systems[system], catalog.stacks[stack])
                self._found[system, stack] = found
            return self._found[system, stack]

    def wheels(self, subject: str) -> Sequence[Wheels]:
        """Return one `Wheels` per Python version and architecture that a requirements file is for."""
        different = {
            (self._context.catalog.systems[flavour.system].python, arch): (flavour.system, flavour.stack)
            for _, flavour, arch in _users(self._context, subject)
        }
        return [
            Wheels(python=python, arch=arch, mirror=self.of(*names))
            for (python, arch), names in sorted(different.items())
        ]


def _resolver(
    context: Context, wants: Iterable[Want], mirrors: _Mirrors, cancelled: threading.Event
) -> SourceResolver:
    systems: dict[str, System] = {
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
        wheels=mirrors.wheels,
        images=PublishedImages(environment_account(context.site.aws.region, connection.network)),
        cancelled=cancelled,
    )
