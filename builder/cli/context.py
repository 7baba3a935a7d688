"""What every verb starts from: the repository, its catalog, the site, the plans that were asked for."""

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from builder import catalog, lock, plan, site, sources
from builder.adapters.workspace import Workspace, find_workspace
from builder.errors import UsageError
from builder.lock import Lock
from builder.model import Catalog, Plan
from builder.screen.summary import table
from builder.screen.text import look
from builder.site import Site

_ARCHES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Context:
    """One repository and this machine; read when first asked for."""

    root: Path

    @cached_property
    def catalog(self) -> Catalog:
        return catalog.load(self.root)

    @cached_property
    def lock(self) -> Lock:
        return lock.read(self.root)

    @cached_property
    def site(self) -> Site:
        return site.load(self.root)

    @cached_property
    def workspace(self) -> Workspace:
        return find_workspace(self.root)

    @property
    def blobs(self) -> Path:
        """Compressed layers, on their way to registries."""
        return self.workspace.home / "cache" / "blobs"

    def plan(self, name: str) -> Plan:
        target = plan.find_target(self.catalog, name)
        read = sources.read(self.root, self.catalog, target)
        return plan.plan(self.catalog, target, read, self.lock, arch=machine())

    def plans(self, names: Iterable[str]) -> list[Plan]:
        return [self.plan(name) for name in dict.fromkeys(names)]


def machine() -> str:
    return _ARCHES.get(platform.machine().lower(), platform.machine().lower())


class _Parser(argparse.ArgumentParser):
    """argparse with our own error: one sentence, a hint, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{self.prog}: {message}", hint=f"{self.prog} --help")


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    made = _Parser(prog=f"builder {verb}", description=description, allow_abbrev=False)
    made.add_argument(
        "--root", type=Path, help="the repository (default: the folder above that has catalog/)"
    )
    return made


def open_context(options: argparse.Namespace) -> Context:
    return Context(options.root.absolute() if options.root else _find_root())


def _find_root() -> Path:
    here = Path.cwd()
    named = os.environ.get("BUILDER_ROOT")
    candidates: Sequence[Path] = [Path(named)] if named else [here, *here.parents]
    for folder in candidates:
        if (folder / "catalog" / "targets").is_dir():
            return folder
    return Path(__file__).resolve().parents[2]


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, as wide as the terminal."""
    style = look(sys.stdout, os.environ)
    print(table(headers, rows, style.width, look=style))
