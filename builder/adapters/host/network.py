"""Network settings of this machine: the proxy for each URL, and the CA certificates of a site.

Knows no HTTP. Must stay cheap to import, because every command with a site imports it.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

_NAMES = ("http_proxy", "https_proxy", "no_proxy")


def environment_proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the proxy variables that are set in an environment, by lower-case name."""
    found = {name: environment.get(name) or environment.get(name.upper()) or "" for name in _NAMES}
    return {name: value for name, value in found.items() if value}


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local_url(url: str) -> bool:
    """True if a URL names a server on this machine; 127.0.0.1.example.com, for example, is not local."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Proxies by variable name (`https_proxy`, `no_proxy`), and a file of CA certificates.

    `token_hosts` are hosts outside a registry's domain that may receive the login of any registry.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: Path | None = None
    token_hosts: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Self:
        return cls(proxies=environment_proxies())

    def proxy_for(self, url: str) -> str:
        """Return the URL of the proxy for a URL; "" if it is reached directly, as loopback always is."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if is_loopback(host):
            return ""
        excluded = [name.strip().lstrip(".").lower() for name in self.proxies.get("no_proxy", "").split(",")]
        own_names = ("*", host, parts.netloc.rpartition("@")[2])
        if any(name in own_names or host.endswith(f".{name}") for name in excluded if name):
            return ""
        proxy = self.proxies.get(f"{parts.scheme}_proxy", "")
        return proxy if "://" in proxy or not proxy else f"http://{proxy}"


DIRECT = Network()
