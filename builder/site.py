"""The site file: what is particular to the place where builds run, and never part of an image.

`site.toml` in the repository or the file that BUILDER_SITE_FILE names; all keys are optional.
"""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.catalog import did_you_mean
from builder.errors import UsageError


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


def _are_strings(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


# Type of a setting's default → what the file may say instead.
_NOUNS: Mapping[type, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: (
        "a whole number, not negative",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    ),
    str: ("a string", lambda value: isinstance(value, str)),
    tuple: ("a list of strings", lambda value: isinstance(value, list) and _are_strings(value)),
    dict: ("a table of strings", lambda value: isinstance(value, dict) and _are_strings(value.values())),
}

_SECTIONS: dict[str, type[AwsSettings] | type[MirrorSettings] | type[RegistrySettings]] = {
    "aws": AwsSettings,
    "mirror": MirrorSettings,
    "registry": RegistrySettings,
}


def load(root: Path) -> Site:
    named = os.environ.get("BUILDER_SITE_FILE")
    path = Path(named) if named else root / "site.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if named:
            raise UsageError(
                f"BUILDER_SITE_FILE: no file {path}", hint="unset it or correct the path"
            ) from error
        return Site()
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}", hint=f"correct {path}") from error
    return Site(**{name: _section(path, name, values) for name, values in table.items()})


def _section(path: Path, name: str, values: object) -> Any:
    if name not in _SECTIONS or not isinstance(values, dict):
        raise UsageError(
            f"{path}: unknown section '{name}'{did_you_mean(name, _SECTIONS)}", hint=f"correct {path}"
        )
    kind = _SECTIONS[name]
    default = kind()
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kind.__dataclass_fields__:
            near = did_you_mean(key, kind.__dataclass_fields__)
            raise UsageError(f"{path}: {name}.{key}: unknown key{near}", hint=f"correct {path}")
        noun, fits = _NOUNS[type(getattr(default, key))]
        if not fits(value):
            raise UsageError(f"{path}: {name}.{key}: must be {noun}, not {value!r}", hint=f"correct {path}")
        fields[key] = tuple(value) if isinstance(value, list) else value
    return kind(**fields)
