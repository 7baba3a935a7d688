"""Resolve download sources: the site file first, then the host's apt and pip configuration.

These settings apply only during a build. They leave no trace in an image and do not affect layer keys.
"""

import dataclasses
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from builder.adapters.host.network import Network, environment_proxies, is_local_url
from builder.adapters.upstream.pip_settings import read_settings
from builder.errors import IntegrityError, UsageError
from builder.model import Stack, Suite, System
from builder.site import MirrorSettings

_APT = Path("/etc/apt")
DEFAULT = "default"  # origin of a value that neither the site nor this host sets
_PORTS = {"http": 80, "https": 443, "ftp": 21, "socks5": 1080}
# Default archives of a distribution: main and security.
_ARCHIVES = {"debian": ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """Resolved download sources of a build."""

    settings: MirrorSettings = field(default_factory=MirrorSettings)
    apt_sources: tuple[str, ...] = ()
    pip_index: str = ""
    pip_extra_indexes: tuple[str, ...] = ()
    pip_find_links: tuple[str, ...] = ()
    wheel_index: str = ""  # index that the stack's wheels come from
    ca_bundle: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)

    @property
    def last_index(self) -> str:
        """The stack's wheel index, used only for wheels that other sources lack; "" without such an index."""
        is_asked = self.wheel_index in (self.pip_index, *self.pip_extra_indexes)
        return "" if self.settings.only or is_asked else self.wheel_index

    @property
    def folders(self) -> tuple[Path, ...]:
        """Host folders that a build reads: wheels, parents of file:// indexes, targets of mirror prefixes."""
        links = {_local_folder(url) for url in self.pip_find_links}
        indexes = {_local_folder(url) for url in (*self.pip_extra_indexes, self.pip_index, self.last_index)}
        paths = links | {index.parent for index in indexes if index}
        for url in self.settings.prefixes.values():
            folder = _local_folder(url)
            if folder is not None:
                paths.add(folder if url.endswith("/") else folder.parent)
        return tuple(sorted(path for path in paths if path is not None))

    @property
    def loopback_servers(self) -> tuple[tuple[str, int], ...]:
        """Host and port of the sources and proxies on loopback, which are forwarded to build containers."""
        indexes = (self.pip_index, *self.pip_extra_indexes, self.last_index)
        sources = (*self.apt_sources, *indexes, *self.pip_find_links)
        servers = [url for name, url in self.proxies.items() if name.lower() != "no_proxy"]
        proxies = (url if "://" in url else f"http://{url}" for url in servers)
        named = (*sources, *self.settings.prefixes.values(), *proxies)
        urls = {word for text in named for word in text.split() if "://" in word}
        return tuple(sorted({_server(url) for url in urls if is_local_url(url)}))

    @property
    def network(self) -> Network:
        return Network(proxies=self.proxies, ca_bundle=self.ca_bundle, token_hosts=self.settings.token_hosts)


def _server(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)
    except ValueError as error:
        raise UsageError(f"{url}: {error}", hint="correct [mirror] in site.toml") from error


def discover(
    settings: MirrorSettings,
    system: System,
    stack: Stack,
    suites: Sequence[Suite] = (),
    *,
    check_paths: bool = True,
) -> Mirror:
    """Return the download sources for a build; `suites` has the locked suites, for sites with snapshots.

    Raises UsageError if a file or folder of the settings does not exist, unless `check_paths` is False.
    """
    pip = read_settings()
    index = settings.pip_index or pip.get("index-url", "")
    extra = settings.pip_extra_indexes or tuple(pip.get("extra-index-url", "").split())
    links = settings.pip_find_links or tuple(pip.get("find-links", "").split())
    if stack.wheel_index and not (index or extra or links or settings.only):
        extra = (settings.rewrite(stack.wheel_index),)
    return dataclasses.replace(
        connection(settings, pip, check_paths=check_paths),
        apt_sources=_apt_sources(settings, system, suites),
        pip_index=index,
        pip_extra_indexes=tuple(url for url in extra if _is_usable(url)),
        pip_find_links=tuple(url for url in links if _is_usable(url)),
        wheel_index=settings.rewrite(stack.wheel_index),
    )


def connection(
    settings: MirrorSettings, pip: Mapping[str, str] | None = None, *, check_paths: bool = True
) -> Mirror:
    """Return a mirror with only the site's URL prefixes, proxies and CA certificates."""
    bundle = settings.ca_bundle or (read_settings() if pip is None else pip).get("cert", "")
    bundle = bundle or os.environ.get("SSL_CERT_FILE", "")
    if check_paths and bundle and not Path(bundle).is_file():
        raise UsageError(
            f"CA bundle {bundle}: no such file", hint="correct mirror.ca_bundle, SSL_CERT_FILE or pip's cert"
        )
    mirror = Mirror(settings=settings, ca_bundle=Path(bundle) if bundle else None, proxies=_proxies(settings))
    for folder in mirror.folders if check_paths else ():
        if not folder.is_dir():
            raise UsageError(
                f"mirror.prefixes: no folder {folder}", hint="correct mirror.prefixes in site.toml"
            )
    return mirror


def _local_folder(url: str) -> Path | None:
    path = url.removeprefix("file://")
    return Path(path) if path.startswith("/") else None


def _is_usable(url: str) -> bool:
    """True unless the URL is a local folder that does not exist."""
    folder = _local_folder(url)
    return folder is None or folder.is_dir()


def _proxies(settings: MirrorSettings) -> dict[str, str]:
    proxies = environment_proxies()
    if settings.proxy:
        proxies |= {"http_proxy": settings.proxy, "https_proxy": settings.proxy}
    if settings.no_proxy:
        proxies["no_proxy"] = settings.no_proxy
    return proxies


def _apt_sources(settings: MirrorSettings, system: System, suites: Sequence[Suite]) -> tuple[str, ...]:
    """Return the lines for sources.list; empty to use the defaults of the distribution's tools."""
    if system.bootstrap is None or system.family != "debian":
        return ()
    option = ""
    if settings.snapshot and suites:
        # The Valid-Until date of a snapshot has passed; its digest in the lock file verifies it instead.
        option = "[check-valid-until=no] "
        sources = {suite.name: snapshot(settings, system, suite.name, suite.snapshot) for suite in suites}
    else:
        sources = archives(settings, system)
    areas = " ".join(system.bootstrap.areas)
    return tuple(f"deb {option}{settings.rewrite(uri)} {name} {areas}" for name, uri in sources.items())


def archives(settings: MirrorSettings, system: System) -> dict[str, str]:
    """Return the current archive URL of each suite, from the site, else this host, else the distribution."""
    return find_archives(settings, system)[1]


def find_archives(settings: MirrorSettings, system: System) -> tuple[str, dict[str, str]]:
    """Return where the archives not set by the site come from, and the archive URL of each suite."""
    assert system.bootstrap is not None
    suite = system.bootstrap.suite
    main, security = settings.apt, settings.apt_security
    if not main and platform.freedesktop_os_release().get("ID") == system.distribution:
        sources = _host_apt(suite)
        if sources:
            return "apt sources of this host", sources
    if not main:
        main, security = _ARCHIVES.get(system.distribution, ("", ""))
    if not main:
        return DEFAULT, {}
    security = security or f"{main.rstrip('/')}-security"
    return DEFAULT, {suite: main, f"{suite}-updates": main, f"{suite}-security": security}


def snapshot(settings: MirrorSettings, system: System, suite: str, stamp: str) -> str:
    """Return the URL of the archive snapshot at `stamp`."""
    if not stamp:
        raise IntegrityError(
            f"catalog/lock.json: suite {system.distribution} {suite} has no snapshot",
            hint=f"builder lock --update 'suite {system.distribution} {suite}'",
        )
    archive = f"{system.distribution}-security" if suite.endswith("-security") else system.distribution
    return settings.snapshot.replace("{archive}", archive).replace("{stamp}", stamp)


def _host_apt(suite: str) -> dict[str, str]:
    """Return the archive URL of each suite in the host's apt sources; empty if `suite` is not among them."""
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
    """Yield (archive, suite) from the text of a .list or .sources file."""
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


def proxy_options(mirror: Mirror) -> list[str]:
    """Return the apt options with the proxies; they may contain a password, so never put them in argv."""
    return [
        f'Acquire::{scheme}::Proxy "{mirror.proxies[f"{scheme}_proxy"]}"'
        for scheme in ("http", "https")
        if f"{scheme}_proxy" in mirror.proxies
    ]


def apt_options(mirror: Mirror, ca_bundle: str = "") -> list[str]:
    """Return the apt options for a build, except proxies."""
    options = ['Acquire::Languages "none"', 'Acquire::Retries "3"']
    if ca_bundle or mirror.ca_bundle:
        options.append(f'Acquire::https::CAInfo "{ca_bundle or mirror.ca_bundle}"')
    return options
