"""Write an image of the engine as a squashfs file for enroot and pyxis.

The file has what enroot itself adds to an imported image: the environment in /etc/environment, the labels and
the start command in /etc/rc. Equal images give equal files.
"""

import errno
import io
import json
import os
import shlex
import struct
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from builder.adapters.engine.client import Engine
from builder.adapters.host import process
from builder.adapters.host.workspace import Run
from builder.errors import BuildError, UsageError, system_errors
from builder.marks import RUN_LABEL

_TIMEOUT_S = 3600.0
# Paths in the root file system that belong to a single machine, or that enroot writes itself.
_LEFT_OUT = (".dockerenv", "etc/fstab", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf")
# lz4, because sqfstar 4.5.1 refuses every level of other compressors, and their default is slow.
_OPTIONS = (
    *("-comp", "lz4"),
    *("-mkfs-time", "0", "-all-time", "0", "-all-root", "-no-xattrs", "-no-progress", "-quiet"),
)
_HEADER = struct.Struct("<4s36xQ")  # the magic number, and the bytes of the file system


def is_complete(path: Path) -> bool:
    """Return True if a squashfs file exists with all bytes that its header counts."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return False
    magic, size = _HEADER.unpack(header)
    return bool(magic == b"hsqs" and size <= path.stat().st_size)


def write_squashfs(engine: Engine, run: Run, image: str, path: Path) -> None:
    """Write the file system of an image to a file, which appears complete or not at all."""
    config: Mapping[str, Any] = (engine.inspect_image(image) or {}).get("Config") or {}
    with system_errors(UsageError):
        for folder in (run.scratch, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        is_near = run.scratch.stat().st_dev == path.parent.stat().st_dev
    # A file cannot be moved to another file system in one step.
    unfinished = run.scratch / path.name if is_near else path.with_name(f".{path.name}-{run.name}")
    pipe = run.scratch / "squashfs.pipe"
    os.mkfifo(pipe)
    container = engine.create(image, command=["true"], network="none", labels={RUN_LABEL: run.name})
    try:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(_send, engine, container, config, pipe)
            try:
                done = process.run(
                    ["sqfstar", *_OPTIONS, str(unfinished)],
                    stdin=pipe,
                    timeout_s=_TIMEOUT_S,
                    cancelled=run.cancelled,
                )
            finally:
                _unblock(pipe)
            if done.code != 0:
                raise BuildError(f"writing {path.name} failed", hint="df -h", details=done.details)
            sending.result()
        unfinished.replace(path)
    finally:
        engine.remove_container(container)
        pipe.unlink()
        unfinished.unlink(missing_ok=True)


def _unblock(pipe: Path) -> None:
    """Let `_send` end if no process opened the pipe for reading."""
    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))


def _send(engine: Engine, container: str, config: Mapping[str, Any], pipe: Path) -> None:
    with suppress(BrokenPipeError), pipe.open("wb") as target, engine.files(container) as source:
        rewrite(source, target, config)


def rewrite(source: IO[bytes], target: IO[bytes], config: Mapping[str, Any]) -> None:
    """Copy the tar of a root file system, with enroot's files in place of machine-specific files."""
    added = {
        "etc/environment": "".join(f"{pair}\n" for pair in config.get("Env") or ()),
        "etc/rc": start_script(config),
        "etc/rc.local": "",
    }
    with (
        tarfile.open(fileobj=source, mode="r|") as old,
        tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            name = member.name.removeprefix("./")
            if name in _LEFT_OUT or name in added or name.startswith("dev/"):
                continue
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
        for name, text in added.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o755 if name == "etc/rc" else 0o644
            new.addfile(member, io.BytesIO(text.encode()))


def start_script(config: Mapping[str, Any]) -> str:
    """Return /etc/rc: the labels as comments, the working directory, the entry point and the command."""
    return "\n".join([*_comments(config), *_commands(config)]) + "\n"


def _comments(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sorted((config.get("Labels") or {}).items()):
        text = value if "\n" not in value else json.dumps(value)
        yield f"# {name} {text}"


def _commands(config: Mapping[str, Any]) -> Iterator[str]:
    folder = shlex.quote(config.get("WorkingDir") or "/")
    entry = shlex.join(config.get("Entrypoint") or ())
    command = shlex.join(config.get("Cmd") or ()) or ("" if entry else "/bin/sh")
    yield f"mkdir -p {folder} 2> /dev/null"
    yield f"cd {folder} && unset OLDPWD || exit 1"
    yield "if [ -s /etc/rc.local ]; then . /etc/rc.local; fi"
    yield f'if [ $# -gt 0 ]; then exec {entry} "$@"; fi'.replace("exec  ", "exec ")
    yield f"exec {entry} {command}".replace("exec  ", "exec ").rstrip()
