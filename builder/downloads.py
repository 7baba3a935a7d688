"""Resolve the download templates of the catalog for one system and architecture.

Pure functions; use neither the lock nor the network.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from builder.arch import ARCHES
from builder.errors import CatalogError
from builder.model import Component, Download, Stack, System

_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)(?::([a-z]+))?\}")

_FILTERS: Mapping[str, Callable[[str], str]] = {
    "": str,
    "upstream": lambda version: version.partition("-")[0],
    "major": lambda version: version.split(".")[0],
    "minor": lambda version: ".".join(version.split(".")[:2]),
    "dashed": lambda version: version.replace(".", "-"),
}
_TEXTS = ("url", "older_url", "ref", "suite", "signature", "key")
WORDS = frozenset(
    {"version", "arch", "distribution", "release", "codename", "repo_os", *ARCHES["x86_64"].placeholders}
)


def placeholders(download: Download) -> Iterator[tuple[str, str, str]]:
    """Yield (key, name, filter) of every placeholder in a download; the filter may be unknown."""
    for key in _TEXTS:
        for name, chosen in _PLACEHOLDER.findall(getattr(download, key)):
            yield key, name, chosen


def known_filter(name: str) -> bool:
    return name in _FILTERS


def downloads_of(
    component: Component, *, stack: Stack, system: System, kind: str, policy: str, arch: str
) -> tuple[Download, ...]:
    """Return a component's downloads for a system, target kind and policy, with placeholders filled in."""
    names = {system.distribution, system.family}
    words = _words(system, arch) | stack.versions
    if component.pinned:
        words["version"] = stack.versions[component.name]
    return tuple(
        _resolve(download, words, component, stack)
        for download in component.downloads
        if (not download.systems or names & set(download.systems))
        and (not download.kinds or kind in download.kinds)
        and (not download.policies or policy in download.policies)
    )


def _words(system: System, arch: str) -> dict[str, str]:
    distribution = "amzn" if system.distribution == "amazon" else system.distribution
    return {
        **ARCHES[arch].placeholders,
        "arch": arch,
        "distribution": system.distribution,
        "release": system.release,
        "codename": system.codename,
        "repo_os": distribution + system.release.replace(".", ""),
    }


def fill(template: str, words: Mapping[str, str]) -> str:
    """Fill in the placeholders of a template; raise KeyError if `words` lacks a placeholder."""
    return _PLACEHOLDER.sub(lambda match: _FILTERS[match[2] or ""](words[match[1]]), template)


def _resolve(download: Download, words: Mapping[str, str], component: Component, stack: Stack) -> Download:
    try:
        filled: dict[str, Any] = {key: fill(getattr(download, key), words) for key in _TEXTS}
    except KeyError as missing:
        key = f"components/{component.name}.toml: downloads '{download.name}'"
        raise CatalogError(
            [f"{key}: stack '{stack.name}' has no pin for placeholder {missing}"],
            hint=f"add the pin to catalog/stacks/{stack.name}.toml",
        ) from missing
    if download.older_than and _numbers(words["version"]) < _numbers(download.older_than):
        filled["url"] = filled["older_url"]
    return dataclasses.replace(download, **filled)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", version)))
