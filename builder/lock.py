"""Lock file `catalog/lock.json`: the expected digest, commit or id of every download of a build.

Computes the required entries of a target and parses and formats the file, without network access. Builds
read the file; only `builder lock` writes it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from builder.arch import ARCHES
from builder.downloads import downloads_of
from builder.errors import IntegrityError
from builder.members import members_of, policy_of
from builder.model import AmiSource, Catalog, Download, Flavour, System, Target, Value
from builder.patterns import unsafe_texts
from builder.reading import parse, read_text, shortened
from builder.sources import digest_of
from builder.values import dataclass

FORMAT = 1
LOCK_PATH = "catalog/lock.json"
# Sites of a build: this host, or an AWS account.
LOCAL, ACCOUNT = "local", "aws"

# Fields of each kind of lock entry; builds compare the first field.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "ami": ("id", "name", "owner", "created", "device", "size_gib"),
    "archive": ("sha256", "size"),
    "git": ("commit",),
    "image": ("digest",),
    "requirements": ("sha256", "packages"),
    "suite": ("sha256", "date", "snapshot"),
}
_LARGEST = 64 << 20  # bytes of the lock file
_SHAPES = {
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "commit": re.compile(r"[0-9a-f]{40}"),
    "digest": re.compile(r"sha256:[0-9a-f]{64}"),
    "id": re.compile(r"ami-[0-9a-f]{8,17}"),
    "size": re.compile(r"[0-9]{1,15}"),
}


@dataclass(frozen=True, order=True, slots=True)
class Want:
    """Required lock entry; `owner` is the component, system or file that requires it."""

    kind: str
    subject: str
    owner: str = field(compare=False, default="")
    # sha256 or commit that the vendor published; the locked value until `builder lock` reads the download.
    published: str = field(compare=False, default="")

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Lock entry; `verified` is False if its digest was taken from the vendor without a download."""

    values: Mapping[str, str | int]
    verified: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Result of querying the source of a download; `note` is a message for the user."""

    entry: Entry
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """Entries of the lock file; `inputs` is a digest of the entries required at the last `builder lock`."""

    entries: Mapping[Want, Entry] = field(default_factory=dict)
    inputs: str = ""

    def value(self, kind: str, subject: str, name: str = "") -> str:
        """Return a field of an entry (by default the first), or "" if there is no entry."""
        entry = self.entries.get(Want(kind, subject))
        return str(entry.values.get(name or FIELDS[kind][0], "")) if entry else ""


def read(root: Path) -> Lock:
    """Read the lock file of a repository; return an empty lock if there is none."""
    path = root / LOCK_PATH
    try:
        text = read_text(path, largest=_LARGEST)
        if not text.strip():
            raise ValueError("is empty")
        return _parse(parse(text, json.loads))
    except FileNotFoundError:
        return Lock()
    except ValueError as error:
        raise IntegrityError(
            f"{LOCK_PATH}: not a valid lock file: {error}",
            hint=f"restore it: git checkout {LOCK_PATH}; then: builder lock",
        ) from error


def _parse(document: object) -> Lock:
    table = _object(document, "the document")
    if table.get("format") != FORMAT:
        raise ValueError(f"format {table.get('format')!r}, not {FORMAT}")
    for key, reason in unsafe_texts(table):
        raise ValueError(f"{key}: {reason}")
    entries = {
        Want(kind, subject): _entry(kind, subject, _object(values, f"{kind} {subject}"))
        for kind, group in _object(table.get("entries"), "entries").items()
        for subject, values in _object(group, f"entries.{kind}").items()
    }
    return Lock(entries=entries, inputs=str(table.get("inputs", "")))


def _object(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return dict(value)
    raise ValueError(f"{where} must be an object, not {'null' if value is None else shortened(value)}")


def _entry(kind: str, subject: str, values: dict[str, Any]) -> Entry:
    if kind not in FIELDS:
        raise ValueError(f"unknown kind of entry '{kind}'")
    verified = values.pop("verified", None)
    if not isinstance(verified, bool):
        raise ValueError(f"{kind} {subject}: verified must be true or false")
    unknown = set(values) - set(FIELDS[kind])
    if unknown or FIELDS[kind][0] not in values:
        raise ValueError(f"{kind} {subject}: fields must be {', '.join(FIELDS[kind])}")
    for name, value in values.items():
        if not isinstance(value, str | int):
            raise ValueError(f"{kind} {subject}: {name} must be a text or a number, not {shortened(value)}")
    for name, shape in _SHAPES.items():
        if name in values and not shape.fullmatch(str(values[name])):
            raise ValueError(f"{kind} {subject}: invalid {name} {values[name]!r}")
    return Entry(values=values, verified=verified)


def to_text(lock: Lock) -> str:
    """Format the lock as sorted JSON with one value per line, so that diffs are readable."""
    groups: dict[str, dict[str, Any]] = {}
    for want, entry in sorted(lock.entries.items()):
        groups.setdefault(want.kind, {})[want.subject] = {**entry.values, "verified": entry.verified}
    table = {"format": FORMAT, "inputs": lock.inputs, "entries": groups}
    return json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def inputs_of(wants: Iterable[Want]) -> str:
    """Return a digest of required entries, without the regions of source AMIs, which depend on the site."""
    return digest_of(sorted({f"{want.kind} {_without_region(want)}" for want in wants}))


def _without_region(want: Want) -> str:
    return want.subject.partition(" ")[2] if want.kind == "ami" else want.subject


def in_other_regions(lock: Lock, wants: Iterable[Want]) -> Iterable[Want]:
    """Return wants for the source AMIs of `wants` in other regions for which the lock has entries."""
    owners = {_without_region(want): want.owner for want in wants if want.kind == "ami"}
    for want in lock.entries:
        if want.kind == "ami" and _without_region(want) in owners:
            yield Want(want.kind, want.subject, owners[_without_region(want)])


def wants(
    catalog: Catalog, target: Target, flavour: Flavour, *, arch: str, site: str = LOCAL, region: str = ""
) -> tuple[Want, ...]:
    """Return the lock entries that a build of a flavour requires, sorted.

    At site "local" the base machine of an AMI is bootstrapped from the package archive; at site "aws" it is
    the source AMI in `region` or, without `region`, the source AMIs in all regions of the catalog.
    """
    system, stack = catalog.systems[flavour.system], catalog.stacks[flavour.stack]
    regions = (region,) if region else system.ami.regions if system.ami else ()
    found = {*_base_wants(system, kind=target.kind, arch=arch, site=site, regions=regions)}
    found.add(Want("requirements", "ansible/requirements.lock", "the runner"))
    kinds_of_requirements = set()
    for name in members_of(catalog, target, flavour):
        kinds_of_requirements.add(catalog.components[name].requirements)
        found.update(component_wants(catalog, name, target, flavour, arch=arch))
    if "stack" in kinds_of_requirements and stack.requirements_file:
        found.add(Want("requirements", stack.requirements_file, f"stack {stack.name}"))
    if target.workload and "workload" in kinds_of_requirements:
        found.add(
            Want("requirements", f"containers/{target.workload}/requirements.lock", f"target {target.name}")
        )
    return tuple(sorted(found))


def building_site(catalog: Catalog, target: Target, flavour: Flavour, *, site: str) -> str:
    """Return the site, or ACCOUNT for an AMI whose system cannot be bootstrapped on this machine."""
    if target.kind == "ami" and catalog.systems[flavour.system].bootstrap is None:
        return ACCOUNT
    return site


def unlocked(lock: Lock, wanted: Iterable[Want], requirements: Mapping[str, str]) -> tuple[Want, ...]:
    """Return the wants without a lock entry, and the wants of Python lock files that have changed since.

    `requirements` has the sha256 of every Python lock file by path.
    """
    return tuple(
        want
        for want in wanted
        if not (found := lock.value(want.kind, want.subject))
        or (want.kind == "requirements" and found != requirements[want.subject])
    )


def component_wants(
    catalog: Catalog, name: str, target: Target, flavour: Flavour, *, arch: str
) -> tuple[Want, ...]:
    """Return the lock entries of one component of a flavour, in the order of its catalog file."""
    downloads = downloads_of(
        catalog.components[name],
        stack=catalog.stacks[flavour.stack],
        system=catalog.systems[flavour.system],
        kind=target.kind,
        policy=policy_of(name, target, flavour),
        arch=arch,
    )
    return tuple(want for download in downloads for want in _download_wants(download, f"component {name}"))


def variants(catalog: Catalog) -> Iterable[tuple[Target, Flavour, str, str]]:
    """Yield (target, flavour, architecture, site) of every possible build."""
    for target in catalog.targets.values():
        for flavour in target.flavours.values():
            for arch in catalog.systems[flavour.system].arches:
                for site in (LOCAL, ACCOUNT):
                    yield target, flavour, arch, site


def all_wants(catalog: Catalog, tools: Iterable[Download] = (), *, region: str = "") -> tuple[Want, ...]:
    """Return the lock entries of all targets, in every flavour, architecture and site, and of the tools.

    Source AMIs are those of all regions of the catalog and of `region`.
    """
    found = {
        want
        for target, flavour, arch, site in variants(catalog)
        for chosen in {"", region}
        for want in wants(catalog, target, flavour, arch=arch, site=site, region=chosen)
    }
    found.update(tool_wants(catalog, tools))
    return tuple(sorted(found))


def tool_wants(catalog: Catalog, tools: Iterable[Download]) -> tuple[Want, ...]:
    """Return the lock entries of the tools that the catalog's kinds of targets need."""
    kinds = {target.kind for target in catalog.targets.values()}
    return tuple(
        want
        for tool in tools
        if not tool.kinds or kinds & set(tool.kinds)
        for want in _download_wants(tool, tool.name)
    )


def _base_wants(system: System, *, kind: str, arch: str, site: str, regions: Iterable[str]) -> Iterable[Want]:
    owner = f"system {system.name}"
    if kind == "ami" and site == ACCOUNT:
        for region in regions if system.ami else ():
            assert system.ami
            yield Want("ami", ami_subject(system.ami, region=region, arch=arch), owner)
        return
    if system.bootstrap:
        for suite in system.bootstrap.suites:
            yield Want("suite", f"{system.distribution} {suite}", owner)
    if system.image and kind == "container":
        yield Want("image", f"{system.image} {arch}", owner)


def ami_subject(source: AmiSource, *, region: str, arch: str) -> str:
    selector = source.parameter or f"{source.owner}/{source.name}"
    return f"{region} {arch} " + selector.replace("{arch}", arch).replace("{deb_arch}", ARCHES[arch].deb)


def _download_wants(download: Download, owner: str) -> Iterable[Want]:
    if download.kind == "archive":
        yield Want("archive", download.url, owner)
    elif download.kind == "git":
        yield Want("git", f"{download.url} {download.ref}", owner)
    for url in (download.signature, download.key):
        if url:
            yield Want("archive", url, owner)


def as_variable(download: Download, lock: Lock) -> dict[str, Value]:
    """Return a download with its URLs and locked digests, as its role receives it in a variable."""

    def archive(url: str) -> dict[str, Value]:
        size = lock.value("archive", url, "size")
        bound: dict[str, Value] = {"size": int(size)} if size else {}
        return {"url": url, "sha256": lock.value("archive", url), **bound}

    signed: dict[str, Value] = {"signature": download.signature, "key": download.key}
    more: dict[str, Value] = {name: archive(str(url)) for name, url in signed.items() if url}
    if download.kind == "git":
        commit = lock.value("git", f"{download.url} {download.ref}")
        return {"url": download.url, "ref": download.ref, "commit": commit, **more}
    if download.kind == "repository":
        sections: dict[str, Value] = {"suite": download.suite, "components": list(download.components)}
        return {"url": download.url, "signed_lists": download.signed_lists, **sections, **more}
    return {**archive(download.url), **more}
