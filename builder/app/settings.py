"""The settings in force at a site, each with its origin: the site file, the environment, the host, a default.

Sends no requests: the module `probes` queries the servers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from builder import site as sites
from builder.adapters.upstream import mirror
from builder.adapters.upstream.mirror import DEFAULT, Mirror
from builder.app.context import Context
from builder.app.role_plan import default_system
from builder.errors import without_logins
from builder.lock import LOCAL
from builder.model import Stack, System

PAGE = Path("docs", "reference", "site.md")
_HEAD = """\
# Keys of the site file

Generated from `builder/site.py` by `builder config --write-docs`. `builder config` prints the values in
force, and `builder doctor` asks their servers. [Site settings](../guides/site.md) explains how to use them.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Setting in force; its origin is a file, environment variable, the host's pip or apt, or a default."""

    key: str
    value: Any  # a JSON value
    origin: str

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Return (key, value) as texts, one pair for each entry of a table, without logins in URLs."""
        if isinstance(self.value, dict):
            found = [(f'{self.key}."{name}"', url) for name, url in self.value.items()]
        elif isinstance(self.value, list | tuple):
            found = [(self.key, ", ".join(self.value))]
        else:
            words = "" if self.value is None else str(self.value)
            found = [(self.key, words.lower() if isinstance(self.value, bool) else words)]
        return tuple((key, without_logins(text)) for key, text in found)


@dataclass(frozen=True, kw_only=True, slots=True)
class InForce:
    """All settings of a site, and the resulting download sources for a reference system."""

    settings: tuple[Setting, ...]
    mirror: Mirror
    system: System
    stack: Stack


def in_force(context: Context) -> InForce:
    """Return the settings in force; the reference system is the first that this machine can build."""
    catalog = context.catalog
    system = catalog.systems[default_system(catalog)]
    flavours = [flavour for target in catalog.targets.values() for flavour in target.flavours.values()]
    stacks = [catalog.stacks[flavour.stack] for flavour in flavours if flavour.system == system.name]
    stack = max(
        stacks, key=lambda stack: bool(stack.requirements), default=Stack(name="", summary="", pins={})
    )
    found = mirror.discover(context.site.mirror, system, stack, check_paths=False)
    from_host = {setting.key: setting for setting in _of_host(context, found, system, stack)}
    file = sites.path_of(context.root)
    settings = [*_of_builder(context, file)]
    for section, kind in sites.SECTIONS.items():
        for field in fields(kind):
            key = f"{section}.{field.name}"
            value = getattr(getattr(context.site, section), field.name)
            own = Setting(key=key, value=_json(value), origin=str(file))
            if key not in context.site.given or value in ("", (), {}):
                own = from_host.get(key) or Setting(key=key, value=_json(value), origin=DEFAULT)
            settings.append(own)
    if found.last_index:
        settings.append(
            Setting(key="wheel_index", value=found.last_index, origin=f"stack {stack.name}, asked last")
        )
    return InForce(settings=tuple(settings), mirror=found, system=system, stack=stack)


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _of_builder(context: Context, file: Path) -> Iterator[Setting]:
    """Yield the settings that are not in the site file: its path, the site and the folders."""
    yield Setting(
        key="site", value=context.site_name, origin=_named("BUILDER_SITE", context.site_name, LOCAL)
    )
    shown = str(file) if file.exists() else ""
    yield Setting(key="site_file", value=shown, origin=_variable("BUILDER_SITE_FILE"))
    yield Setting(key="root", value=str(context.root), origin=_named("BUILDER_ROOT", str(context.root), ""))
    home = "BUILDER_HOME" if os.environ.get("BUILDER_HOME") else "XDG_CACHE_HOME"
    yield Setting(key="home", value=str(context.workspace.home), origin=_variable(home))
    yield Setting(key="out", value=str(context.workspace.out), origin=DEFAULT)


def _named(variable: str, value: str, default: str) -> str:
    if os.environ.get(variable) == value:
        return _variable(variable)
    return DEFAULT if value == default or not default else "command line"


def _variable(*names: str, otherwise: str = DEFAULT) -> str:
    """Return the name of the first of these environment variables that is set, as a setting's origin."""
    return next((f"environment variable {name}" for name in names if os.environ.get(name)), otherwise)


def _of_host(context: Context, found: Mirror, system: System, stack: Stack) -> Iterator[Setting]:
    """Yield the settings that come from the environment, the host or a stack if the site file lacks them."""
    assert system.bootstrap is not None
    origin, archives = mirror.find_archives(context.site.mirror, system)
    suite, pip = system.bootstrap.suite, "pip's configuration"
    origin = "mirror.apt" if context.site.mirror.apt else origin
    yield Setting(key="mirror.apt", value=archives.get(suite, ""), origin=origin)
    yield Setting(key="mirror.apt_security", value=archives.get(f"{suite}-security", ""), origin=origin)
    from_pip = _variable("PIP_INDEX_URL", otherwise=pip) if found.pip_index else "default of pip"
    yield Setting(key="mirror.pip_index", value=found.pip_index or _default_index(), origin=from_pip)
    if extra := found.pip_extra_indexes:
        from_host = _variable("PIP_EXTRA_INDEX_URL", otherwise=pip)
        is_stack, is_host = stack.wheel_index in extra, set(extra) != {stack.wheel_index}
        origin = ", ".join([from_host] * is_host + [f"stack {stack.name}"] * is_stack)
        yield Setting(key="mirror.pip_extra_indexes", value=list(extra), origin=origin)
    if links := found.pip_find_links:
        origin = _variable("PIP_FIND_LINKS", otherwise=pip)
        yield Setting(key="mirror.pip_find_links", value=list(links), origin=origin)
    if bundle := found.ca_bundle:
        by_variable = os.environ.get("SSL_CERT_FILE") == str(bundle)
        origin = _variable("PIP_CERT", *(["SSL_CERT_FILE"] if by_variable else []), otherwise=pip)
        yield Setting(key="mirror.ca_bundle", value=str(bundle), origin=origin)
    proxies = dict.fromkeys(value for name, value in found.proxies.items() if name != "no_proxy")
    if proxies:
        names = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")
        yield Setting(key="mirror.proxy", value=", ".join(proxies), origin=_variable(*names))
    if excluded := found.proxies.get("no_proxy"):
        yield Setting(key="mirror.no_proxy", value=excluded, origin=_variable("no_proxy", "NO_PROXY"))


def page() -> str:
    """Return the reference page of the site file's keys as Markdown."""
    lines = [_HEAD]
    for section, kind in sites.SECTIONS.items():
        lines += [f"## [{section}]", "", "| key | value | meaning |", "|---|---|---|"]
        default = kind()
        for field in fields(kind):
            form = field.metadata["form"]
            words = form.words if form else sites.TYPES[type(getattr(default, field.name))]
            if isinstance(getattr(default, field.name), tuple) and form:
                words = f"list; each {words}"
            lines.append(f"| `{field.name}` | {words} | {field.metadata['about']} |")
        lines.append("")
    return "\n".join(lines)


def _default_index() -> str:
    """Return the index that pip uses without configuration; "" if this Python has no pip."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return ""
    return PyPI.simple_url
