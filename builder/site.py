"""The site file: what is particular to the place where builds run, and never part of an image.

`site.toml` in the repository or the file that BUILDER_SITE_FILE names; all keys are optional.
"""

import os
import tomllib
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySettings:
    """Where images go, and the repository (host/name) that layers are shared through; "" for none."""

    push: str = ""
    cache: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    mirror: MirrorSettings = MirrorSettings()
    registry: RegistrySettings = RegistrySettings()


_SECTIONS: dict[str, type[MirrorSettings] | type[RegistrySettings]] = {
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
        wants_list = isinstance(getattr(default, key), tuple)
        strings = value if wants_list and isinstance(value, list) else [value]
        if isinstance(value, list) != wants_list or not all(isinstance(item, str) for item in strings):
            noun = "a list of strings" if wants_list else "a string"
            raise UsageError(f"{path}: {name}.{key}: must be {noun}, not {value!r}", hint=f"correct {path}")
        fields[key] = tuple(value) if wants_list else value
    return kind(**fields)
