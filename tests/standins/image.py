"""Machine images with files of stand-ins, which imitate a vendor's base image."""

import io
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from builder import catalog
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Run
from builder.adapters.upstream import mirror
from builder.app.role_plan import default_stack
from builder.marks import RUN_LABEL
from builder.model import System
from builder.rehearsal.ec2 import machine
from tests.standins import amazon_linux
from tests.standins.overlay import ROOT, settings_of
from tests.standins.site import Content, Site, mode_and_bytes

_REPOSITORY = "factory-standins"


def packed(files: Mapping[str, Content | Path]) -> bytes:
    """Return a tar archive of files; a Path as content is the target of a symbolic link."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            if isinstance(content, Path):
                entry.type, entry.linkname = tarfile.SYMTYPE, str(content)
                archive.addfile(entry)
                continue
            mode, data = mode_and_bytes(content)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def put(engine: Engine, container: str, files: Mapping[str, Content | Path]) -> None:
    if files:
        engine.put(container, "/", packed(files))


@contextmanager
def image_of(run: Run, site: Site, system: System) -> Iterator[str]:
    """Build a machine image with the site's base files and yield its name, or "" if the site has none."""
    if not site.base:
        yield ""
        return
    engine, name = Engine(), f"{_REPOSITORY}:{uuid.uuid4().hex[:12]}"
    if system.name == amazon_linux.NAME:
        system = amazon_linux.machine(catalog.load(ROOT).systems["debian-12"])
    loaded = catalog.load(ROOT)
    mirrors = mirror.discover(settings_of(None), system, loaded.stacks[default_stack(loaded)])
    base = machine.ensure(engine, run, system, mirrors, print)
    labels = {RUN_LABEL: run.name}
    container = engine.create(base, command=(machine.INIT,), labels=labels, network="none")
    try:
        put(engine, container, site.base)
        config = (engine.inspect_image(base) or {}).get("Config") or {}
        repository, _, tag = name.partition(":")
        engine.commit(container, repository=repository, tag=tag, labels=labels, parent_config=config)
    finally:
        engine.remove_container(container)
    try:
        yield name
    finally:
        engine.remove_image(name)
