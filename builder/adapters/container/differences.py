"""Compare two images that the engine made of the same plan, file by file."""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import IO, Any

from builder.adapters.container.images import diff_ids_of
from builder.adapters.engine.client import Engine
from builder.errors import BuildError
from builder.model import Plan

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """The properties of a file in a layer; messages give the names of differing properties."""

    content: str  # its type, its target if it is a link, and its digest
    mode: int
    owner: tuple[int, int]
    time: float


_Layers = list[Mapping[str, _File]]


def differences(engine: Engine, plan: Plan, first: str, second: str) -> list[str]:
    """Return a line for each file, and each setting of the configuration, that differs between two images."""
    if first == second:
        return []
    records = [engine.inspect_image(image) for image in (first, second)]
    one, other = (record or {} for record in records)
    found = [
        f"configuration: {name}"
        for name in ("Architecture", "Config", "Created", "Os")
        if one.get(name) != other.get(name)
    ]
    if diff_ids_of(one) != diff_ids_of(other):
        no_files: Mapping[str, _File] = {}
        pairs = zip_longest(_layers(engine, first), _layers(engine, second), fillvalue=no_files)
        above = len(diff_ids_of(one)) - len(plan.layers)  # a base may have several layers
        for number, (before, after) in enumerate(pairs):
            name = plan.layers[max(number - above, 0)].name
            found += [f"layer {name}: {text}" for text in _file_differences(before, after)]
    return found or ["the order of the files in a layer"]


def _file_differences(before: Mapping[str, _File], after: Mapping[str, _File]) -> Iterator[str]:
    for path in sorted({*before, *after}):
        one, other = before.get(path), after.get(path)
        if one is None or other is None:
            yield f"/{path}: only in the {'first' if other is None else 'second'} build"
        elif one != other:
            names = [name for name in _File.__slots__ if getattr(one, name) != getattr(other, name)]
            yield f"/{path}: {', '.join(names)}"


def _layers(engine: Engine, image: str) -> _Layers:
    """Return the files of each layer of an image, the base first."""
    found: dict[str, Mapping[str, _File]] = {}
    manifest: list[dict[str, Any]] = []
    with engine.export(image) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            if member.name == "manifest.json":
                manifest = json.load(content)
            else:
                with suppress(tarfile.ReadError):  # a document, and not a layer
                    found[member.name] = dict(_files(content))
    if not manifest:
        raise BuildError("docker save: the export has no manifest.json", hint="docker info")
    return [found.get(name, {}) for name in manifest[0]["Layers"]]


def _files(layer: IO[bytes]) -> Iterator[tuple[str, _File]]:
    with tarfile.open(fileobj=layer, mode="r|*") as tar:
        for member in tar:
            digest = hashlib.sha256()
            if content := tar.extractfile(member) if member.isreg() else None:
                while chunk := content.read(_CHUNK):
                    digest.update(chunk)
            yield (
                member.name,
                _File(
                    content=f"{member.type!r} {member.linkname} {digest.hexdigest()}",
                    mode=member.mode,
                    owner=(member.uid, member.gid),
                    time=member.mtime,
                ),
            )
