"""Where a build downloads from: the site file first, then the host's own apt and pip configuration.

Everything here is applied while building and leaves no trace in an image; nothing here is part of a key.
"""

import ast
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.adapters import process
from builder.errors import UsageError
from builder.model import Stack, System
from builder.site import MirrorSettings

_APT = Path("/etc/apt")
_PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """Resolved places; `folders` are host folders that hold wheels or a file:// index."""

    apt_sources: tuple[str, ...] = ()
    pip_index: str = ""
    pip_extra_indexes: tuple[str, ...] = ()
    pip_find_links: tuple[str, ...] = ()
    ca_bundle: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Host folders with wheels, and those above file:// indexes, which link to files beside them."""
        links = {_local_folder(place) for place in self.pip_find_links}
        indexes = {_local_folder(place) for place in (*self.pip_extra_indexes, self.pip_index)}
        paths = links | {index.parent for index in indexes if index}
        return tuple(sorted(path for path in paths if path is not None))


def discover(settings: MirrorSettings, system: System, stack: Stack) -> Mirror:
    pip = _host_pip()
    index = settings.pip_index or pip.get("index-url", "")
    extra = settings.pip_extra_indexes or tuple(pip.get("extra-index-url", "").split())
    links = settings.pip_find_links or tuple(pip.get("find-links", "").split())
    if stack.wheel_index and not (index or extra or links):
        extra = (stack.wheel_index,)
    bundle = settings.ca_bundle or pip.get("cert", "") or os.environ.get("SSL_CERT_FILE", "")
    if bundle and not Path(bundle).is_file():
        raise UsageError(
            f"CA bundle {bundle}: no such file", hint="correct mirror.ca_bundle, SSL_CERT_FILE or pip's cert"
        )
    return Mirror(
        apt_sources=_apt_sources(settings, system),
        pip_index=index,
        pip_extra_indexes=tuple(place for place in extra if _is_there(place)),
        pip_find_links=tuple(place for place in links if _is_there(place)),
        ca_bundle=Path(bundle) if bundle else None,
        proxies=_proxies(settings),
    )


def _local_folder(place: str) -> Path | None:
    path = place.removeprefix("file://")
    return Path(path) if path.startswith("/") else None


def _is_there(place: str) -> bool:
    folder = _local_folder(place)
    return folder is None or folder.is_dir()


def _host_pip() -> dict[str, str]:
    """pip's own view of its configuration: files first, then the environment, as pip itself ranks them."""
    listed = process.run([sys.executable, "-m", "pip", "config", "list"], timeout_s=60)
    ranks = {"global": 0, "user": 1, "site": 2, ":env:": 3}
    found: dict[str, tuple[int, str]] = {}
    for line in listed.output.splitlines():
        match = re.match(r"(global|user|site|install|:env:)\.([a-z-]+)=(.*)", line)
        if not match:
            continue
        rank = ranks.get(match[1], 2)
        if rank >= found.get(match[2], (0, ""))[0]:
            found[match[2]] = (rank, str(ast.literal_eval(match[3])))
    return {key: value for key, (_, value) in found.items()}


def _proxies(settings: MirrorSettings) -> dict[str, str]:
    proxies = {name: os.environ.get(name) or os.environ.get(name.upper()) or "" for name in _PROXY_NAMES}
    if settings.proxy:
        proxies |= {"http_proxy": settings.proxy, "https_proxy": settings.proxy}
    if settings.no_proxy:
        proxies["no_proxy"] = settings.no_proxy
    return {name: value for name, value in proxies.items() if value}


def _apt_sources(settings: MirrorSettings, system: System) -> tuple[str, ...]:
    """Lines for sources.list; none where the defaults of the distribution's tools are meant."""
    if system.bootstrap is None or system.family != "debian":
        return ()
    suite = system.bootstrap.suite
    if settings.apt:
        main = settings.apt
        security = settings.apt_security or f"{main.rstrip('/')}-security"
        places = {suite: main, f"{suite}-updates": main, f"{suite}-security": security}
    elif platform.freedesktop_os_release().get("ID") == system.distribution:
        places = _host_apt(suite)
    else:
        places = {}
    return tuple(f"deb {uri} {name} main" for name, uri in places.items())


def _host_apt(suite: str) -> dict[str, str]:
    """suite → archive of the host's own sources, if the host runs this suite at all."""
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]
        if path.suffix in (".list", ".sources") and path.is_file()
    ]
    wanted = (suite, f"{suite}-updates", f"{suite}-security")
    found: dict[str, str] = {}
    for uri, name in (entry for text in texts for entry in _apt_entries(text)):
        if name in wanted and uri.startswith("http"):
            found.setdefault(name, uri)
    return {name: found[name] for name in wanted if name in found} if suite in found else {}


def _apt_entries(text: str) -> Iterable[tuple[str, str]]:
    """(archive, suite) of both formats of apt's sources."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s", line)
        if match:
            yield match[1], match[2]
    for stanza in re.split(r"\n\s*\n", text):
        keys = dict(re.findall(r"^(Types|URIs|Suites|Enabled):[ \t]*(.*)$", stanza, re.MULTILINE))
        if "deb" in keys.get("Types", "").split() and keys.get("Enabled", "yes").strip() != "no":
            for uri in keys.get("URIs", "").split():
                for name in keys.get("Suites", "").split():
                    yield uri, name
