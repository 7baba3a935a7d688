"""The site file: what is particular to the place where builds run, and never part of an image.

`site.toml` in the repository or the file that BUILDER_SITE_FILE names; all keys are optional.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.errors import UsageError
from builder.tables import (
    COUNT,
    FLAG,
    LIST,
    STRINGS,
    TEXT,
    Problems,
    Shape,
    did_you_mean,
    fits,
    read_toml,
    tuples,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MirrorSettings:
    """Where downloads come from; what is empty is taken from the host's own apt and pip configuration."""

    apt: str = ""
    apt_security: str = ""
    pip_index: str = ""
    pip_extra_indexes: tuple[str, ...] = ()
    pip_find_links: tuple[str, ...] = ()
    ca_bundle: str = ""
    proxy: str = ""
    no_proxy: str = ""
    # Beginning of an address → what stands in its place here; the longest that fits is taken.
    prefixes: Mapping[str, str] = field(default_factory=dict)
    # Where past states of a package archive are, with {archive} and {stamp}.
    snapshot: str = ""

    def rewrite(self, url: str) -> str:
        """The address that a download really comes from."""
        fitting = max((prefix for prefix in self.prefixes if url.startswith(prefix)), key=len, default="")
        return self.prefixes[fitting] + url.removeprefix(fitting) if fitting else url


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySettings:
    """Where images go, and the repository (host/name) that layers are shared through; "" for none.

    "ecr" in place of a host is the registry of the account; who we are to it comes from the account as well.
    """

    push: str = ""
    cache: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSettings:
    """Where AMIs are built in an account, and who gets them; credentials come from the environment."""

    region: str = "us-east-1"
    subnet: str = ""
    security_group: str = ""  # without one each build has its own
    source_cidrs: tuple[str, ...] = ()  # who may reach the builder instance then
    public_address: bool = False
    instance_profile: str = ""
    ssh_interface: str = ""  # private_ip, public_ip, session_manager
    wait_minutes: int = 240  # for an image, and for a copy of one, to become available
    encrypt: bool = False
    kms_key: str = ""
    copy_regions: tuple[str, ...] = ()
    share_accounts: tuple[str, ...] = ()
    share_organizations: tuple[str, ...] = ()  # ARNs of organisations or their units
    deprecate_after_days: int = 0  # 0: never
    parameters: str = "/image-factory"  # under which the ids are published


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    aws: AwsSettings = AwsSettings()
    mirror: MirrorSettings = MirrorSettings()
    registry: RegistrySettings = RegistrySettings()


# Type of a setting's default → what the file may hold.
_TYPES: Mapping[type, str] = {bool: FLAG, int: COUNT, str: TEXT, tuple: LIST, dict: STRINGS}

_SECTIONS: dict[str, type[AwsSettings] | type[MirrorSettings] | type[RegistrySettings]] = {
    "aws": AwsSettings,
    "mirror": MirrorSettings,
    "registry": RegistrySettings,
}


def load(root: Path) -> Site:
    """The site of `root`; raises UsageError with every problem of the file."""
    named = os.environ.get("BUILDER_SITE_FILE")
    path = Path(named) if named else root / "site.toml"
    if not path.exists():
        if named:
            raise UsageError(f"BUILDER_SITE_FILE: no file {path}", hint="unset it or correct the path")
        return Site()
    problems = Problems()
    sections = {name: _section(str(path), name, values, problems) for name, values in _read(path, problems)}
    if problems.found:
        first, *others = problems.found
        more = f" (and {len(others)} more)" if others else ""
        raise UsageError(first + more, hint=f"correct {path}", details="\n".join(others))
    return Site(**sections)


def _read(path: Path, problems: Problems) -> Iterable[tuple[str, object]]:
    table = read_toml(path.parent, path.name, problems, called=str(path))
    return table.items() if table else ()


def _section(file: str, name: str, values: object, problems: Problems) -> Any:
    kind = _SECTIONS.get(name)
    if kind is None or not isinstance(values, dict):
        problems.add(file, "", f"unknown section '{name}'{did_you_mean(name, _SECTIONS)}")
    elif fits(values, _shape(kind), file, f"{name}.", problems):
        return kind(**tuples(values))
    return None


def _shape(kind: type[AwsSettings] | type[MirrorSettings] | type[RegistrySettings]) -> Shape:
    default = kind()
    return {key: (_TYPES[type(getattr(default, key))], False) for key in kind.__dataclass_fields__}
