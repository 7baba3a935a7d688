"""Load the site file: settings of the environment in which builds run, which never affect an image.

The file is `site.toml` in the repository or the path in BUILDER_SITE_FILE; all keys are optional.
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
    """Mirrors for downloads; empty settings fall back to the host's apt and pip configuration."""

    apt: str = ""
    apt_security: str = ""
    pip_index: str = ""
    pip_extra_indexes: tuple[str, ...] = ()
    pip_find_links: tuple[str, ...] = ()
    ca_bundle: str = ""
    proxy: str = ""
    no_proxy: str = ""
    token_hosts: tuple[str, ...] = ()  # token servers outside of their registry's domain
    # Replacement of each URL prefix; the longest matching prefix wins.
    prefixes: Mapping[str, str] = field(default_factory=dict)
    # URL template of a snapshot service for package archives, with {archive} and {stamp}.
    snapshot: str = ""

    def rewrite(self, url: str) -> str:
        """Return `url` with its longest matching prefix replaced, or unchanged if none matches."""
        fitting = max((prefix for prefix in self.prefixes if url.startswith(prefix)), key=len, default="")
        return self.prefixes[fitting] + url.removeprefix(fitting) if fitting else url


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySettings:
    """Registry that images are pushed to, and repository (host/name) of the layer cache; "" for none.

    The host "ecr" means the ECR registry of the AWS account, with the account's credentials.
    """

    push: str = ""
    cache: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSettings:
    """Settings for building and sharing AMIs in an AWS account; credentials come from the environment."""

    region: str = "us-east-1"
    subnet: str = ""
    security_group: str = ""  # if empty, each build creates its own
    source_cidrs: tuple[str, ...] = ()  # networks that may reach the instance if the build creates the group
    public_address: bool = False
    instance_profile: str = ""
    instance_role: str = ""  # role of the instance profile; if empty, the name of the profile
    ssh_interface: str = ""  # private_ip, public_ip, session_manager
    wait_minutes: int = 240  # timeout for an AMI or a copy to become available
    encrypt: bool = False
    kms_key: str = ""
    copy_regions: tuple[str, ...] = ()
    share_accounts: tuple[str, ...] = ()
    share_organizations: tuple[str, ...] = ()  # ARNs of organizations or organizational units
    deprecate_after_days: int = 0  # 0: never
    parameters: str = "/image-factory"  # prefix of the SSM parameters that hold the AMI ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    aws: AwsSettings = AwsSettings()
    mirror: MirrorSettings = MirrorSettings()
    registry: RegistrySettings = RegistrySettings()


# Type that a setting must have in the file, by the type of its default value.
_TYPES: Mapping[type, str] = {bool: FLAG, int: COUNT, str: TEXT, tuple: LIST, dict: STRINGS}

_SECTIONS: dict[str, type[AwsSettings] | type[MirrorSettings] | type[RegistrySettings]] = {
    "aws": AwsSettings,
    "mirror": MirrorSettings,
    "registry": RegistrySettings,
}


def load(root: Path) -> Site:
    """Load the site file of `root`; raise UsageError that lists every problem."""
    named = os.environ.get("BUILDER_SITE_FILE")
    path = Path(named) if named else root / "site.toml"
    if not path.exists():
        if named:
            raise UsageError(
                f"BUILDER_SITE_FILE: no file {path}", hint="correct the path, or: unset BUILDER_SITE_FILE"
            )
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
