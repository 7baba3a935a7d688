"""Copies of the repository in which stand-ins replace the vendors: pins, lock, wheels and mirrors.

`builder --root` or BUILDER_ROOT selects the copy; nothing else in the product changes.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from builder import catalog, lock
from builder import site as site_file
from builder.adapters.upstream import mirror
from builder.app.context import Context
from builder.app.role_plan import RoleRequest, default_stack, default_system, role_plan, role_target
from builder.arch import of_this_machine
from builder.errors import UsageError
from builder.lock import Entry, Lock, Want
from builder.members import closure
from builder.model import Plan
from builder.site import MirrorSettings
from tests.standins import amazon_linux
from tests.standins.site import Site

ROOT = Path(__file__).resolve().parents[2]
STANDINS = ROOT / "tests" / "standins"
# Writes the files that the vendor of a component serves.
Builder = Callable[[Site, str], None]
_LINKED = ("ansible", "containers", "packer")


def standin_pins() -> dict[str, str]:
    """Return the versions of the stand-ins."""
    pins: dict[str, str] = tomllib.loads((STANDINS / "stack.toml").read_text(encoding="utf-8"))["pins"]
    return pins


def has_standin(component: str) -> bool:
    return (STANDINS / f"{component}.py").is_file()


def build_standin(site: Site, name: str) -> None:
    """Write the files that the vendor of a component serves, and the files of its base image."""
    if has_standin(name):
        module = importlib.import_module(f"tests.standins.{name}")
        module.build(site)
        site.base |= module.base(site) if hasattr(module, "base") else {}


def plan_of(request: RoleRequest, site: Site | None, *, build: Builder = build_standin) -> Plan:
    """Return the plan of the roles; the lock is that of the site, or of the catalog if `site` is None."""
    return role_plan(Context(lay_out(request, site, build=build) if site else ROOT), request)


def root_of(site: Site | None) -> Path:
    """Return the path of the repository that `lay_out` creates, or of this checkout if `site` is None."""
    return site.folder.parent / "repository" if site else ROOT


def lay_out(request: RoleRequest, site: Site, *, build: Builder = build_standin) -> Path:
    """Build the stand-ins of the roles; return the path of a new repository that downloads from the site."""
    root = root_of(site)
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(ROOT / "catalog", root / "catalog")
    for name in _LINKED:
        (root / name).symlink_to(ROOT / name)
    _use_python_of_debian(root)
    loaded, target = role_target(catalog.load(root), request)
    if target.default.system == amazon_linux.NAME:
        build_standin(site, "amazon_linux")
    for name in closure(loaded, target.components):
        build(site, name)
    known = catalog.load(root).stacks[target.default.stack].pins
    pins = {name: version for name, version in site.pins.items() if known.get(name) != version}
    stack = root / "catalog" / "stacks" / f"{target.default.stack}.toml"
    stack.write_text(with_pins(stack.read_text(encoding="utf-8"), pins), encoding="utf-8")
    if site.requirements:
        text = "\n".join(sorted(site.requirements)) + "\n"
        (root / loaded.stacks[target.default.stack].requirements_file).write_text(text, encoding="utf-8")
    (root / "site.toml").write_text(site_text(settings_of(site)), encoding="utf-8")
    loaded, target = role_target(catalog.load(root), request)
    locked = lock_site(root, site, lock.wants(loaded, target, target.default, arch=of_this_machine()))
    (root / lock.LOCK_PATH).write_text(lock.to_text(locked), encoding="utf-8")
    return root


def _use_python_of_debian(root: Path) -> None:
    """Set Debian's Python version for Amazon Linux, because a Debian machine imitates Amazon Linux."""
    systems = catalog.load(ROOT).systems
    path = root / "catalog" / "systems" / f"{amazon_linux.NAME}.toml"
    python = f'python = "{systems[default_system(catalog.load(ROOT))].python}"'
    text = re.sub(r'^python = ".*"$', python, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


def with_pins(text: str, pins: Mapping[str, str]) -> str:
    """Return the text of a stack file with some pins replaced or added."""
    for name, version in pins.items():
        line = f'{name} = "{version}"'
        text, found = re.subn(rf"^{name} = .*$", line, text, flags=re.MULTILINE)
        if not found:
            text = text.replace("[pins]\n", f"[pins]\n{line}\n")
    return text


def settings_of(site: Site | None) -> MirrorSettings:
    """Return mirror settings: the site serves all downloads except the distribution's packages."""
    settings = site_file.load(ROOT).mirror
    if site is None:
        return settings
    loaded = catalog.load(ROOT)
    system = loaded.systems[default_system(loaded)]
    sources = mirror.discover(settings, system, loaded.stacks[default_stack(loaded)]).apt_sources
    archives = {line.split()[1]: line.split()[1] for line in sources}
    settings = dataclasses.replace(settings, prefixes=site.mirrors | archives)
    return dataclasses.replace(settings, pip_index=site.indexes[0]) if site.indexes else settings


def site_text(settings: MirrorSettings) -> str:
    """Return the text of a site.toml with the given settings."""
    values = {name: value for name, value in dataclasses.asdict(settings).items() if value}
    prefixes = values.pop("prefixes", {})
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    entries = [f"{json.dumps(prefix)} = {json.dumps(url)}" for prefix, url in prefixes.items()]
    return "\n".join(["[mirror]", *lines, "[mirror.prefixes]", *entries]) + "\n"


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lock_site(root: Path, site: Site, wants: Iterable[Want]) -> Lock:
    """Return a lock of the site's files and of the distribution's archive; fail if a file is missing."""
    entries, real = {}, lock.read(ROOT).entries
    for want in wants:
        values: dict[str, str | int]
        if want.kind == "archive":
            path = site.url_file(want.subject)
            if not path.is_file():
                raise UsageError(f"no stand-in serves {want}", hint=f"add it to the stand-in of {want.owner}")
            values = {"sha256": sha256_of(path), "size": path.stat().st_size}
        elif want.kind == "git":
            url, ref = want.subject.split(" ")
            argv = ["git", "-C", str(site.url_file(url)), "rev-parse", f"{ref}^{{commit}}"]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            values = {"commit": done.stdout.strip()}
        elif want.kind == "requirements":
            values = {"sha256": sha256_of(root / want.subject)}
        else:
            if want in real:
                entries[want] = real[want]
            continue
        entries[want] = Entry(values=values, verified=True)
    return Lock(entries=entries)


def environment_of(site: Site) -> dict[str, str]:
    """Return the environment in which `builder` and molecule use the repository of `lay_out`."""
    root = root_of(site)
    return os.environ | {"BUILDER_ROOT": str(root), "BUILDER_SITE_FILE": str(root / "site.toml")}
