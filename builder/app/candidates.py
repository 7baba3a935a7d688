"""Values that shell completion offers for an argument, by its metavar, such as TARGET or STACK.

Raises no errors: values from files that cannot be read are not offered.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder import tooling
from builder.adapters.engine.client import LAYERS, Engine
from builder.adapters.host import receipts
from builder.app import architectures
from builder.app.context import Context
from builder.app.runs import all_runs
from builder.errors import FactoryError
from builder.rehearsal import cluster, session
from builder.stack.locking import names
from builder.stack.vocabulary import Fact, write_value

Candidate = tuple[str, str]  # a value and its description


@dataclass(frozen=True, slots=True)
class Typed:
    """An incomplete command line: the beginning of an argument's value, and the words before the value."""

    context: Context
    word: str
    before: tuple[str, ...] = ()


def candidates(metavar: str, typed: Typed) -> list[Candidate]:
    """Return the completions of the typed word for an argument with this metavar."""
    found: list[Candidate] = []
    with suppress(FactoryError, OSError):
        found = [pair for pair in SOURCES[metavar](typed) if pair[0].startswith(typed.word)]
    return found


def _targets(typed: Typed) -> Iterator[Candidate]:
    """Yield all targets; if the typed word is not empty, also all aliases."""
    catalog = typed.context.catalog
    yield from ((target.name, target.summary) for target in catalog.targets.values())
    if typed.word:
        yield from ((alias, f"alias of {target}") for alias, target in catalog.aliases.items())


def _flavours(typed: Typed) -> Iterable[Candidate]:
    """Return the flavours of the targets on the command line; of all targets if it names none."""
    catalog = typed.context.catalog
    before = {catalog.aliases.get(word, word) for word in typed.before}
    targets = catalog.targets
    named = [target for name, target in targets.items() if name in before] or targets.values()
    return {flavour.name: flavour.summary for target in named for flavour in target.flavours.values()}.items()


def _stacks(typed: Typed) -> Iterable[Candidate]:
    return ((stack.name, stack.summary) for stack in typed.context.catalog.stacks.values())


def _systems(typed: Typed) -> Iterable[Candidate]:
    return ((system.name, system.summary) for system in typed.context.catalog.systems.values())


def _components(typed: Typed) -> Iterable[Candidate]:
    return ((component.name, component.summary) for component in typed.context.catalog.components.values())


def _layers(typed: Typed) -> Iterable[Candidate]:
    return ((name, "") for name in ("base", *typed.context.catalog.layers, "workload"))


def _instances(typed: Typed) -> Iterable[Candidate]:
    return ((name, instance.accelerator) for name, instance in typed.context.catalog.instances.items())


def _regions(typed: Typed) -> Iterable[Candidate]:
    systems = typed.context.catalog.systems.values()
    return ((region, "") for region in sorted({r for s in systems if s.ami for r in s.ami.regions}))


def _facts(typed: Typed) -> Iterable[Candidate]:
    return _assignments(typed, typed.context.knowledge.vocabulary.facts.values())


def _versions(typed: Typed) -> Iterable[Candidate]:
    facts = typed.context.knowledge.vocabulary.facts.values()
    return _assignments(typed, [fact for fact in facts if fact.is_component])


def _assignments(typed: Typed, facts: Iterable[Fact]) -> Iterator[Candidate]:
    """Yield `NAME=` for every fact; after a typed `NAME=`, yield `NAME=VALUE` for each known value."""
    name, equals, _ = typed.word.partition("=")
    for fact in facts:
        if not equals:
            yield f"{fact.name}=", fact.what
        elif fact.name == name:
            yield from ((f"{name}={value}", "") for value in _values(typed.context, fact))


def _values(context: Context, fact: Fact) -> Sequence[str]:
    if fact.kind == "flag":
        return ("true", "false")
    releases = context.knowledge.releases.get(fact.name, ())
    return fact.one_of or [write_value(release.version) for release in releases]


def _releases_of_torch(typed: Typed) -> Iterable[Candidate]:
    facts = typed.context.knowledge.vocabulary.facts
    return ((value, "") for value in _values(typed.context, facts["torch"])) if "torch" in facts else ()


def _operating_systems(typed: Typed) -> Iterable[Candidate]:
    facts = typed.context.knowledge.vocabulary.facts
    return ((value, "") for value in facts["os"].one_of) if "os" in facts else ()


def _lock_names(typed: Typed) -> Iterable[Candidate]:
    return ((name, "") for name in sorted(names(typed.context.catalog, tooling.read(typed.context.root))))


def _amis(typed: Typed) -> Iterable[Candidate]:
    """Yield the AMIs and targets of receipts, newest first; if the typed word is a path, yield files."""
    if "/" in typed.word or typed.word.startswith("."):
        yield from _paths(typed)
        return
    found = sorted(
        (typed.context.workspace.out / "receipts").glob("*/*.json"), key=lambda path: -path.stat().st_mtime
    )
    targets: dict[str, str] = {}
    for path in found:
        table = receipts.read(path)
        reference = str(table["artifact"]["reference"]) if table else ""
        if table and reference.startswith("ami-"):
            target, created = path.parent.name, str(table.get("created", ""))
            targets.setdefault(target, created)
            yield reference, f"{target}, {created}"
            yield os.path.relpath(path), f"receipt of {target}, {created}"
    yield from ((target, f"newest AMI, {created}") for target, created in targets.items())


def _images(_: Typed) -> Iterable[Candidate]:
    tags = sorted({tag for image in Engine().images() for tag in image.tags})
    return ((tag, "") for tag in tags if not tag.startswith(f"{LAYERS}:"))


def _rehearsals(typed: Typed) -> Iterable[Candidate]:
    return ((name, "") for name in session.names(typed.context.workspace))


def _clusters(typed: Typed) -> Iterable[Candidate]:
    return ((name, "") for name in cluster.names(typed.context.workspace))


def _runs(typed: Typed) -> Iterable[Candidate]:
    runs = all_runs(typed.context.workspace)
    return ((run.name, " ".join([run.command, *run.targets, run.state])) for run in runs)


def _paths(typed: Typed) -> Iterator[Candidate]:
    """Yield the files and folders in the folder that the typed path names; folders end in a slash."""
    word = typed.word
    head = word[: word.rfind("/") + 1]
    for path in sorted((Path(head).expanduser() if head else Path()).iterdir()):
        if not path.name.startswith(".") or word[len(head) :].startswith("."):
            yield f"{head}{path.name}{'/' if path.is_dir() else ''}", ""


def _architectures(typed: Typed) -> Iterable[Candidate]:
    return ((name, "") for name in architectures.names(typed.context.root))


SOURCES: Mapping[str, Callable[[Typed], Iterable[Candidate]]] = {
    "AMI": _amis,
    "ARCHITECTURE": _architectures,
    "CLUSTER": _clusters,
    "COMPONENT": _components,
    "COMPONENT=VERSION": _versions,
    "FACT=VALUE": _facts,
    "FILE": _paths,
    "FLAVOUR": _flavours,
    "FOLDER": _paths,
    "IMAGE": _images,
    "LAYER": _layers,
    "NAME": _lock_names,
    "OS": _operating_systems,
    "PATH": _paths,
    "REGION": _regions,
    "REHEARSAL": _rehearsals,
    "RUN": _runs,
    "STACK": _stacks,
    "SYSTEM": _systems,
    "TARGET": _targets,
    "TORCH": _releases_of_torch,
    "TYPE": _instances,
}
# Metavars of arguments without completion.
FREE = frozenset(
    {
        "ARN",
        "HOST",
        "ID",
        "DAYS",
        "KEY=VALUE",
        "N",
        "NAME,…",
        "NAME=FOLDER",
        "NETWORK",
        "NEW",
        "NUMBER",
        "SECONDS",
        "SIZE",
        "SPAN",
        "VARIABLE=VALUE",
        "YES|NO",
    }
)
