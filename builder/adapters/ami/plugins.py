"""Install the locked Packer plugins in a folder that Packer searches instead of the user's folder.

Archives stay in the cache of the builder and are compared with the lock before each use. Packer silently
ignores a plugin that has no digest file beside it.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from builder.adapters.host.workspace import Run
from builder.adapters.upstream.fetch import Fetcher
from builder.errors import IntegrityError, naming
from builder.lock import Lock
from builder.tooling import Plugin

SEARCH_PATH = "PACKER_PLUGIN_PATH"
_LARGEST = 1 << 30


def install(run: Run, wanted: Iterable[Plugin], lock: Lock, fetcher: Fetcher) -> Path:
    """Unpack the locked plugins into a folder of the run and return the folder."""
    folder = run.scratch / "packer-plugins"
    for plugin in wanted:
        sha256 = lock.value("archive", plugin.url)
        if not sha256:
            raise IntegrityError(
                f"Packer plugin {plugin.name} {plugin.version} is not locked: archive {plugin.url}",
                hint="builder lock, on a host that reaches the vendor; then commit catalog/lock.json",
            )
        archive = run.workspace.cache("packer-plugins") / f"{sha256}.zip"
        with run.locked(f"packer-plugin-{sha256}"):
            if not archive.is_file() or _digest(archive.read_bytes()) != sha256:
                _download(plugin, sha256, archive, fetcher)
            _unpack(plugin, archive, folder / plugin.source)
    return folder


def _download(plugin: Plugin, sha256: str, archive: Path, fetcher: Fetcher) -> None:
    content = fetcher.read(plugin.url, limit=_LARGEST)
    if (found := _digest(content)) != sha256:
        raise IntegrityError(
            f"{plugin.url} does not match its lock: expected sha256 {sha256}, got {found}",
            hint="builder lock --verify",
        )
    part = archive.with_suffix(".part")
    with naming(part):
        part.write_bytes(content)
        part.replace(archive)


def _unpack(plugin: Plugin, archive: Path, folder: Path) -> None:
    """Write the program of a plugin and its digest to a folder."""
    pattern = re.compile(rf"packer-plugin-{re.escape(plugin.name)}_v{re.escape(plugin.version)}_[\w.]+")
    with naming(folder):
        name, content = _member(archive, pattern)
        if not name:
            raise IntegrityError(
                f"{plugin.url}: not an archive with exactly one program {pattern.pattern}",
                hint="correct plugins in catalog/packer.toml, then: builder lock",
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        program = folder / name
        program.write_bytes(content)
        program.chmod(0o700)
        program.with_name(f"{program.name}_SHA256SUM").write_text(_digest(content), encoding="ascii")


def _member(archive: Path, pattern: re.Pattern[str]) -> tuple[str, bytes]:
    """Return name and content of the only archive member that matches `pattern`, otherwise ("", b"")."""
    if not zipfile.is_zipfile(archive):
        return "", b""
    with zipfile.ZipFile(archive) as found:
        names = [name for name in found.namelist() if pattern.fullmatch(name)]
        return (names[0], found.read(names[0])) if len(names) == 1 else ("", b"")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
