"""Read the pinned versions of the factory's own tools: Ansible collections and Packer plugins.

Reads `ansible/requirements.yml` and `catalog/packer.toml`; uses neither the lock nor the network.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.arch import ARCHES
from builder.downloads import fill
from builder.errors import CatalogError
from builder.model import Download
from builder.reading import read_text
from builder.tables import TABLES, TEXT, Problems, Shape, fits, read_toml

COLLECTIONS = "ansible/requirements.yml"
_PLUGINS = "packer.toml"
# URL that ansible-galaxy downloads a collection from.
_GALAXY = (
    "https://galaxy.ansible.com/api/v3/plugin/ansible/content/published/collections/artifacts/"
    "{name:dashed}-{version}.tar.gz"
)
_FILE: Shape = {"plugins": (TABLES, True)}
_PLUGIN: Shape = {"name": (TEXT, True), "version": (TEXT, True), "source": (TEXT, True), "url": (TEXT, True)}
# The subset of YAML that requirements.yml uses, so that reading it needs no YAML library.
_LINE = re.compile(
    r""" *(?P<first>- +)?(?P<key>name|version): +(?P<quote>["']?)(?P<value>[\w.+-]+)(?P=quote)"""
)
_SOURCE = re.compile(r"[a-z0-9][a-z0-9.-]*/[\w-]+/[\w-]+", re.ASCII)
_EXACT = re.compile(r"\d+\.\d+\.\d+(?:[.+-][\w.+-]+)?")


def read(root: Path) -> tuple[Download, ...]:
    """Return the downloads of all tools; raise one CatalogError that lists all problems."""
    problems = Problems()
    found = (*_collections(root, problems), *_plugins(root, problems))
    if problems.found:
        raise CatalogError(sorted(problems.found))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """Packer plugin at an exact version."""

    name: str
    version: str
    source: str  # source address, which is also its folder in Packer's plugin path
    url: str  # archive for an architecture of hosts


def plugins(root: Path, arch: str) -> tuple[Plugin, ...]:
    """Return the pinned Packer plugins for hosts of an architecture."""
    problems = Problems()
    found = tuple(
        Plugin(
            name=table["name"],
            version=table["version"],
            source=table["source"],
            url=_urls(i, table, problems).get(arch, ""),
        )
        for i, table in _tables(root, problems)
    )
    if problems.found:
        raise CatalogError(sorted(problems.found))
    return found


def _urls(i: int, plugin: Mapping[str, str], problems: Problems) -> Mapping[str, str]:
    """Return the download URL of a plugin's archive for each host architecture."""
    try:
        return {name: fill(plugin["url"], {**arch.placeholders, **plugin}) for name, arch in ARCHES.items()}
    except KeyError as missing:
        problems.add(_PLUGINS, f"plugins[{i}].url", f"no placeholder {missing}")
        return {}


def _tables(root: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index, table) of each valid Packer plugin in the catalog."""
    folder = root / "catalog"
    table = read_toml(folder, _PLUGINS, problems) if (folder / _PLUGINS).exists() else None
    if table is None or not fits(table, _FILE, _PLUGINS, "", problems):
        return
    for i, plugin in enumerate(table["plugins"]):
        if not fits(plugin, _PLUGIN, _PLUGINS, f"plugins[{i}].", problems):
            continue
        if _SOURCE.fullmatch(plugin["source"]):
            yield i, plugin
        else:
            problems.add(_PLUGINS, f"plugins[{i}].source", "must be HOST/OWNER/NAME")


def _plugins(root: Path, problems: Problems) -> Iterator[Download]:
    """Yield the download of each Packer plugin for each host architecture."""
    for i, plugin in _tables(root, problems):
        for url in _urls(i, plugin, problems).values():
            yield Download(name=f"Packer plugin {plugin['name']}", url=url, kinds=("ami",))


def _collections(root: Path, problems: Problems) -> Iterator[Download]:
    found: list[dict[str, str]] = []
    try:
        text = read_text(root / COLLECTIONS)
    except FileNotFoundError:
        return
    except ValueError as error:
        problems.add(COLLECTIONS, "", str(error))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.sub(r"(^|\s)#.*", "", line).rstrip()
        match = _LINE.fullmatch(words)
        if match and match["first"]:
            found.append({})
        if match and found:
            found[-1][match["key"]] = match["value"]
        elif words not in ("", "---", "collections:"):
            problems.add(
                COLLECTIONS,
                f"line {number}",
                "unsupported line: only 'collections:' and entries with name and version are allowed",
            )
    for i, entry in enumerate(found):
        if re.fullmatch(r"\w+\.\w+", entry.get("name", "")) and _EXACT.fullmatch(entry.get("version", "")):
            yield Download(name=f"Ansible collection {entry['name']}", url=fill(_GALAXY, entry))
        else:
            problems.add(
                COLLECTIONS, f"collections[{i}]", "needs a name (NAMESPACE.NAME) and an exact version"
            )
