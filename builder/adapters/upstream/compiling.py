"""Compile the requirements of a workload into a lock with hashes, with pip's resolver.

Resolves once per Python version, architecture and stack, and leaves out what the stack provides. Must not
know the catalog.
"""

import itertools
import json
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.adapters.host import process
from builder.adapters.upstream.fetch import Fetcher
from builder.adapters.upstream.pip import environment_of, missing_wheel, pip_resolve
from builder.adapters.upstream.resolver import Wheels
from builder.arch import ARCHES
from builder.errors import BuildError, CatalogError, FactoryError, MissingError
from builder.requirements import heading, normalized, read_source

_PIP_S = 1800


@dataclass(frozen=True, slots=True)
class Source:
    """A requirements.in, and its name in messages."""

    path: Path
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """The image on which packages are installed, and the versions that its stack provides, by package."""

    wheels: Wheels
    stack: str
    provided: Mapping[str, str]

    @property
    def environment(self) -> str:
        """Environment marker that is true only for the image's Python version and architecture."""
        machine = ARCHES[self.wheels.arch].uname
        return f"python_version == '{self.wheels.python}' and platform_machine == '{machine}'"


@dataclass(kw_only=True, slots=True)
class _Package:
    """Package of the lock: its version, the hashes of its wheels, and the images that need it."""

    version: str
    stack: str  # the first stack that needs it
    hashes: set[str] = field(default_factory=set)
    environments: set[str] = field(default_factory=set)


def compile_lock(
    source: Source,
    installations: Sequence[Installation],
    *,
    keep: Mapping[str, str],
    cancelled: threading.Event,
) -> str:
    """Return the text of the lock for a requirements.in; versions in `keep` change only if they must.

    Raises CatalogError if the requirements contradict each other or a stack, and MissingError if an index
    lacks a package.
    """
    preferred = dict(keep)
    packages: dict[str, _Package] = {}
    for installation in installations:
        for name, (version, sha256) in _resolve(source, installation, preferred, cancelled).items():
            package = packages.setdefault(name, _Package(version=version, stack=installation.stack))
            if package.version != version:
                raise CatalogError(
                    [
                        f"{source}: {name} resolves to {package.version} with stack '{package.stack}',"
                        f" and to {version} with stack '{installation.stack}'"
                    ],
                    hint=f"add to {source}: {name}=={package.version}",
                )
            package.hashes.add(sha256)
            package.environments.add(installation.environment)
            preferred[name] = version
    return _format(source, packages, {installation.environment for installation in installations})


def _format(source: Source, packages: Mapping[str, _Package], everywhere: set[str]) -> str:
    lines = [heading(read_source(source.path))]
    for name, package in sorted(packages.items()):
        marker = "" if package.environments == everywhere else f" ; {_either(package.environments)}"
        hashes = " \\\n".join(f"    --hash=sha256:{sha256}" for sha256 in sorted(package.hashes))
        lines.append(f"{name}=={package.version}{marker} \\\n{hashes}\n")
    return "".join(lines)


def _either(markers: Iterable[str]) -> str:
    found = sorted(markers)
    return found[0] if len(found) == 1 else " or ".join(f"({marker})" for marker in found)


def _resolve(
    source: Source, installation: Installation, preferred: Mapping[str, str], cancelled: threading.Event
) -> dict[str, tuple[str, str]]:
    """Return (version, sha256) of each package by name.

    If the preferred versions do not fit or are gone, resolves without them; the last index of the mirror is
    asked only for wheels that the other indexes lack.
    """
    mirror, provided = installation.wheels.mirror, installation.provided
    chosen = {name: version for name, version in preferred.items() if name not in provided}
    pins = [{**chosen, **provided}, *([provided] if chosen else [])]
    extras = [mirror.pip_extra_indexes]
    extras += [(*mirror.pip_extra_indexes, mirror.last_index)] if mirror.last_index else []
    errors: list[FactoryError] = []
    for pinned, extra in itertools.product(pins, extras):
        try:
            return _ask_pip(source, installation, pinned, extra, cancelled)
        except (CatalogError, MissingError) as error:
            errors.append(error)
    raise errors[-1]


def _ask_pip(
    source: Source,
    installation: Installation,
    pinned: Mapping[str, str],
    extra: Sequence[str],
    cancelled: threading.Event,
) -> dict[str, tuple[str, str]]:
    wheels = installation.wheels
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()))
        argv, report = pip_resolve(source.path, constraints, folder, python=wheels.python, arch=wheels.arch)
        environment = environment_of(wheels.mirror, extra=extra)
        try:
            done = process.run(argv, timeout_s=_PIP_S, cancelled=cancelled, env=environment)
        except BuildError as error:
            raise MissingError(f"{source}: pip: timed out after {_PIP_S} s", hint="builder doctor") from error
        if done.code:
            raise _failure(source, installation, done.output)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = {normalized(entry["metadata"]["name"]): entry for entry in found}
    return {
        name: (entry["metadata"]["version"], _sha256(entry, wheels, cancelled))
        for name, entry in packages.items()
        if name not in installation.provided
    }


def _sha256(entry: Mapping[str, dict[str, object]], wheels: Wheels, cancelled: threading.Event) -> str:
    """Return the sha256 of a package's wheel, from the report or, if its index gives none, from the file."""
    archive = entry["download_info"].get("archive_info")
    hashes = archive.get("hashes") if isinstance(archive, dict) else None
    found = hashes.get("sha256") if isinstance(hashes, dict) else None
    url = str(entry["download_info"]["url"])
    return str(found) if found else Fetcher(wheels.mirror, cancelled=cancelled).measure(url).sha256


def _failure(source: Source, installation: Installation, output: str) -> FactoryError:
    """Return the error for a failed run of pip."""
    errors = [
        line for line in re.findall(r"^ERROR: (.*)$", output, re.MULTILINE) if not line.startswith("Ignored")
    ]
    if "ResolutionImpossible" in output or "conflicting dependencies" in output:
        conflict = re.findall(r"^    (\S.*)$", output, re.MULTILINE)
        reasons = "; ".join(conflict) or (errors or ["conflicting requirements"])[0]
        reasons = reasons.replace("The user requested (constraint)", f"stack '{installation.stack}' pins")
        return CatalogError([f"{source}: {reasons}"], hint=f"correct {source}")
    if missing := missing_wheel(output, installation.wheels.mirror):
        return MissingError(f"{source}: {missing[0]}", hint=f"correct {source}, or {missing[1]}")
    reason = errors[-1] if errors else (output.strip().splitlines() or ["no output"])[-1]
    return MissingError(f"{source}: pip: {reason}", hint="builder doctor")
