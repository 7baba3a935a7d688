"""Write images whose layers and configuration depend only on the layer key.

An image that the engine itself commits or builds records the host, the run and the current time.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from builder.adapters.ansible.playbook import LAYER_FILES, files_command
from builder.adapters.ansible.runtime import MOUNT
from builder.adapters.engine.client import LAYERS, Bind, Engine, built_by
from builder.adapters.engine.limits import limits
from builder.adapters.host.workspace import Run
from builder.errors import BuildError
from builder.marks import (
    CREATED_LABEL,
    DESCRIPTION_LABEL,
    KEY_LABEL,
    LOCK_LABEL,
    PARENT_LABEL,
    RUN_LABEL,
    STACK_LABEL,
    TARGET_LABEL,
    TITLE_LABEL,
    VERSIONS_LABEL,
)
from builder.model import Layer, Plan
from builder.plan import LOCK_INPUT

# Fields of an image's configuration that control how containers of the image run.
_FIELDS = (
    *("Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "OnBuild", "Shell", "StopSignal", "User"),
    *("Volumes", "WorkingDir"),
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EARLIEST = 315532800  # 1980: file formats such as zip have no earlier times
_OUTPUT = f"{MOUNT}/files"

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The diff ids of an image's layers, and the tar of the last layer if the engine lacks this layer."""

    diff_ids: tuple[str, ...]
    tar: Path | None = None
    is_empty: bool = False  # the image has no layer of its own


def epoch_of(record: Record) -> int:
    """Return the reference time of an image: the time of its creation."""
    return _seconds(str(record.get("Created") or ""))


def reference_time(plan: Plan) -> int:
    """Return the time of the newest locked suite of a bootstrapped base."""
    return _seconds(max((suite.date for suite in plan.suites), default=""))


def _seconds(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return _EARLIEST
    return max(int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()), _EARLIEST)


class ImageWriter:
    """Replaces images that the engine made by images that depend only on the layer key."""

    def __init__(self, engine: Engine, run: Run) -> None:
        self._engine = engine
        self._run = run

    def inspect(self, image: str) -> Record:
        found = self._engine.inspect_image(image)
        if found is None:
            raise BuildError(f"the engine has no image {image}", hint="re-run the command; it resumes")
        return found

    def list_files(self, parent: Record) -> Path:
        return list_files(self._engine, self._run, parent["Id"])

    def write(
        self,
        plan: Plan,
        layer: Layer,
        image: str,
        *,
        epoch: int,
        parent: Record | None = None,
        listing: Future[Path] | None = None,
    ) -> None:
        """Replace an image that the engine made on top of `parent` by the layer's image with the same files.

        With `listing`, the list of the parent's files, the builder packs the new files as one layer.
        A workload's Dockerfile and the recipe of a base decide how containers start; other layers keep the
        settings of their parent.
        """
        if not self._engine.takes_configurations:
            for repository in (built_by(self._run.workspace.checkout), LAYERS):
                self._engine.tag(image, repository, layer.key)
            return
        record = self.inspect(image)
        diff_ids = diff_ids_of(record)
        settings = parent if parent and layer.kind == "components" else record
        if parent and listing and diff_ids != diff_ids_of(parent):
            folder = listing.result()
            with repacked(self._engine, self._run, image, parent, folder, epoch=epoch) as contents:
                self._write(plan, layer, settings, contents, epoch=epoch)
        else:
            is_empty = parent is not None and diff_ids == diff_ids_of(parent)
            self._write(plan, layer, settings, Contents(diff_ids=diff_ids, is_empty=is_empty), epoch=epoch)
        self._engine.remove_image(image)

    def _write(self, plan: Plan, layer: Layer, settings: Record, contents: Contents, *, epoch: int) -> None:
        """Write the image, then tag it with the layer's key, so that a tagged layer is complete."""
        config = image_config(
            settings,
            contents,
            epoch=epoch,
            labels=labels_of(plan, layer, epoch),
            environment=layer.environment,
            steps=[_description(lower) for lower in plan.layers[: plan.layers.index(layer) + 1]],
        )
        tag = f"{built_by(self._run.workspace.checkout)}:{layer.key}"
        path = self._run.scratch / f"image-{layer.key[:16]}.tar"
        try:
            write_archive(path, config, contents, tag)
            with path.open("rb") as archive:
                self._engine.load(archive)
        finally:
            path.unlink(missing_ok=True)
        self._engine.tag(tag, LAYERS, layer.key)


def labels_of(plan: Plan, layer: Layer, epoch: int) -> dict[str, str]:
    """Return the labels of a layer's image; all labels depend only on the layer key."""
    labels = {KEY_LABEL: layer.key, CREATED_LABEL: _iso(epoch)}
    if layer.parent:
        labels[PARENT_LABEL] = layer.parent
    if layer.kind == "workload":
        labels |= {
            TARGET_LABEL: plan.target.name,
            STACK_LABEL: plan.stack.name,
            VERSIONS_LABEL: json.dumps(plan.versions, sort_keys=True),
            LOCK_LABEL: layer.inputs[LOCK_INPUT],
            TITLE_LABEL: plan.target.name,
            DESCRIPTION_LABEL: plan.target.summary,
        }
    return labels


def diff_ids_of(record: Record) -> tuple[str, ...]:
    return tuple(record["RootFS"]["Layers"])


def _iso(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _description(layer: Layer) -> str:
    return f"builder: {layer.kind} {' '.join(layer.components)}".rstrip()


def image_config(
    record: Record,
    contents: Contents,
    *,
    epoch: int,
    labels: Mapping[str, str],
    environment: Mapping[str, str],
    steps: Sequence[str],
) -> bytes:
    """Return the configuration of an image, with the container settings of an existing image's `record`.

    `steps` describes the layers from the base to the top.
    """
    found: Record = record.get("Config") or {}
    settings = {name: found[name] for name in _FIELDS if found.get(name)}
    words = [f"PATH={_PATH}", *(found.get("Env") or ())]
    variables = {name: value for name, _, value in (word.partition("=") for word in words)}
    settings["Env"] = [f"{name}={value}" for name, value in {**variables, **environment}.items()]
    settings["Labels"] = {
        name: value for name, value in (found.get("Labels") or {}).items() if not name.startswith("factory.")
    } | dict(labels)
    if settings.get("User") == "0":
        del settings["User"]
    created = _iso(epoch)
    document = {
        "architecture": record["Architecture"],
        **({"variant": record["Variant"]} if record.get("Variant") else {}),
        "os": record["Os"],
        "created": created,
        "config": settings,
        "history": [{"created": created, **entry} for entry in _history(contents, steps)],
        "rootfs": {"type": "layers", "diff_ids": list(contents.diff_ids)},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _history(contents: Contents, steps: Sequence[str]) -> list[dict[str, Any]]:
    """Return a history entry for each layer; the first step describes all layers of the base."""
    own = [{"created_by": steps[-1], "empty_layer": True}] if contents.is_empty else []
    base, *others = steps[:-1] if contents.is_empty else steps
    count = len(contents.diff_ids) - len(others)
    if count < 1:  # a layer below has no files
        return [{"created_by": "builder"}] * len(contents.diff_ids) + own
    return [{"created_by": step} for step in [base] * count + others] + own


def write_archive(path: Path, config: bytes, contents: Contents, tag: str) -> None:
    """Write an image for `docker load`: the engine takes layers that it has from its store, by diff id."""
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    layers = [f"{number}/layer.tar" for number in range(len(contents.diff_ids))]
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": layers}]).encode()
    with tarfile.open(path, "w") as archive:
        for member, content in ((name, config), ("manifest.json", manifest)):
            _add(archive, member, len(content), io.BytesIO(content))
        if contents.tar:
            with contents.tar.open("rb") as file:
                _add(archive, layers[-1], os.fstat(file.fileno()).st_size, file)


def _add(archive: tarfile.TarFile, name: str, size_bytes: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    archive.addfile(member, content)


def list_files(engine: Engine, run: Run, image: str) -> Path:
    """List the files of a parent, for `repacked`; return the new folder with the list."""
    folder = Path(tempfile.mkdtemp(prefix="files-", dir=run.scratch))
    _run_in(engine, run, image, folder, "list", f"{_OUTPUT}/parent.json")
    return folder


@contextmanager
def repacked(
    engine: Engine, run: Run, image: str, parent: Record, listing: Path, *, epoch: int
) -> Iterator[Contents]:
    """Pack the differences of an image from its parent into one layer, with times up to `epoch`.

    The engine's own layers hold the time at which a file of the parent was removed. The layer's tar and the
    list of the parent's files are deleted at the end of the block.
    """
    tar = listing / "layer.tar"
    try:
        words = (f"{_OUTPUT}/parent.json", str(epoch), f"{_OUTPUT}/{tar.name}")
        _run_in(engine, run, image, listing, "pack", *words)
        with tar.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        yield Contents(diff_ids=(*diff_ids_of(parent), digest), tar=tar)
    finally:
        shutil.rmtree(listing)


def _run_in(engine: Engine, run: Run, image: str, folder: Path, *words: str) -> None:
    container = engine.create(
        image,
        command=files_command(*words),
        network="none",
        mounts=[LAYER_FILES, Bind(source=str(folder), target=_OUTPUT, writable=True)],
        labels={RUN_LABEL: run.name},
        **limits(engine),
    )
    lines: list[str] = []
    try:
        if engine.run_to_end(container, lines.append) != 0:
            raise BuildError(
                "the files of an image cannot be read",
                hint="add python3 to the packages of the image's system",
                details="\n".join(lines),
            )
    finally:
        engine.remove_container(container)
