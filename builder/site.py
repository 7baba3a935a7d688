"""Load the site file: settings of the environment in which builds run, which never affect an image.

The file is `site.toml` in the repository or the path in BUILDER_SITE_FILE; all keys are optional. The fields
of the settings classes define the keys of the file: name, default, meaning and pattern of values.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any

from builder import forms
from builder.errors import MissingError, UsageError
from builder.forms import Form
from builder.reading import UnreadableError, read_text
from builder.tables import (
    COUNT,
    FLAG,
    LIST,
    STRINGS,
    TEXT,
    Problems,
    Shape,
    Table,
    did_you_mean,
    fits,
    parse_toml,
    tuples,
)
from builder.values import dataclass


def _key(default: Any, about: str, form: Form | None = None) -> Any:
    """Return the dataclass field of a site file key: default, description, and pattern of its values."""
    metadata = {"about": about, "form": form}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class MirrorSettings:
    """Mirrors for downloads; empty settings fall back to the host's apt and pip configuration."""

    only: bool = _key(default=False, about="never ask the stack's own wheel index")
    apt: str = _key("", "package archive; default: this host's apt source for the same suite", forms.ARCHIVE)
    apt_security: str = _key("", "archive of security updates; default: `apt` + `-security`", forms.ARCHIVE)
    pip_index: str = _key("", "Python index; default: this host's pip configuration", forms.INDEX)
    pip_extra_indexes: tuple[str, ...] = _key(
        (), "further Python indexes; default: this host's pip configuration", forms.INDEX
    )
    pip_find_links: tuple[str, ...] = _key(
        (), "folders or pages of wheels; default: this host's pip configuration", forms.INDEX
    )
    ca_bundle: str = _key("", "CA certificates; default: pip's `cert`, then SSL_CERT_FILE", forms.PATH)
    proxy: str = _key("", "proxy; default: http_proxy and https_proxy", forms.PROXY)
    no_proxy: str = _key("", "hosts that are reached without the proxy; default: no_proxy")
    token_hosts: tuple[str, ...] = _key(
        (), "token servers outside the registry's domain that may receive the registry's login", forms.HOST
    )
    prefixes: Mapping[str, str] = _key(
        {}, "replacement of each URL prefix; the longest matching prefix wins", forms.ARCHIVE
    )
    snapshot: str = _key("", "snapshots of package archives; default: the current archives", forms.SNAPSHOT)

    def rewrite(self, url: str) -> str:
        """Return `url` with its longest matching prefix replaced, or unchanged if none matches."""
        fitting = max((prefix for prefix in self.prefixes if url.startswith(prefix)), key=len, default="")
        return self.prefixes[fitting] + url.removeprefix(fitting) if fitting else url


# Registry host that stands for the ECR registry of the AWS account or rehearsal and its credentials.
ECR = "ecr"
_ECR_HOST = re.compile(r"\d{12}\.dkr[.-]ecr\.")


def is_ecr_host(host: str) -> bool:
    """Return True for the host of an account's ECR registry."""
    return _ECR_HOST.match(host) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySettings:
    """Registry that images are pushed to, and repository (host/name) of the layer cache; "" for none."""

    push: str = _key("", "registry of published images; default: the registry on this machine", forms.PUSH)
    cache: str = _key("", "repository of the shared layer cache, with tags cache-KEY", forms.CACHE)

    @property
    def is_ecr(self) -> bool:
        """True if images are pushed to ECR."""
        return self.push.partition("/")[0] == ECR or is_ecr_host(self.push)


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSettings:
    """Settings for building and sharing AMIs in an AWS account; credentials come from the environment."""

    account: str = _key(
        "", "account id; credentials of another account are refused; default: any", forms.ACCOUNT
    )
    region: str = _key("us-east-1", "region in which AMIs are built", forms.REGION)
    subnet: str = _key("", "subnet of build instances; default: the default subnet", forms.SUBNET)
    subnets: tuple[str, ...] = _key(
        (), "further subnets of the same VPC, tried in order if EC2 lacks capacity", forms.SUBNET
    )
    instance_types: tuple[str, ...] = _key(
        (),
        "types of build instances, tried in order if EC2 lacks capacity; default: the target's",
        forms.INSTANCE_TYPE,
    )
    capacity: str = _key(
        "none", "capacity reservation of build instances: open, none or its id", forms.RESERVATION
    )
    spot: bool = _key(
        default=False, about="build on spot instances, and on demand where EC2 has none or reclaims one"
    )
    security_group: str = _key("", "security group; default: a temporary group per run", forms.GROUP)
    source_cidrs: tuple[str, ...] = _key(
        (), "SSH clients that the temporary group allows; default: this host", forms.NETWORK
    )
    public_address: bool | None = _key(
        None, "true or false: with or without a public address; default: as the subnet is set"
    )
    instance_profile: str = _key("", "instance profile; required for session_manager", forms.NAME)
    instance_role: str = _key("", "role of the instance profile; default: the profile's name", forms.NAME)
    ssh_interface: str = _key(
        "", "address for SSH", forms.choice("private_ip", "public_ip", "session_manager")
    )
    wait_minutes: int = _key(240, "time limit for an AMI or a copy to become available")
    encrypt: bool = _key(default=False, about="encrypt AMIs")
    kms_key: str = _key("", "KMS key of encrypted AMIs; default: the account's key for EBS")
    copy_regions: tuple[str, ...] = _key((), "regions that AMIs are copied to", forms.REGION)
    share_accounts: tuple[str, ...] = _key((), "accounts that AMIs are shared with", forms.ACCOUNT)
    share_organizations: tuple[str, ...] = _key(
        (), "ARNs of organizations or organizational units that AMIs are shared with", forms.ORGANIZATION
    )
    deprecate_after_days: int = _key(0, "days until an AMI is deprecated; 0: never")
    share_parameters: bool = _key(
        default=False,
        about="share_accounts and share_organizations may read the SSM parameters, which AWS then bills",
    )
    parameters: str = _key("/image-factory", "prefix of SSM parameters with AMI ids", forms.PARAMETER)
    keep_last: int = _key(
        0,
        "AMIs of each target and system that `builder clean` keeps in each region, the newest; those in use"
        " are always kept; 0: all",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSettings:
    """Settings of checkpoints: intermediate images that AMI builds keep after driver and CUDA layers."""

    enabled: bool = _key(default=True, about="make and use checkpoints of AMIs; default: true")
    keep_last: int = _key(
        2, "checkpoints of each target and layer that `builder clean` keeps, the newest; default: 2"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckSettings:
    """Settings of the instances on which the checks of AMIs run."""

    instance: str = _key(
        "", "type of the instances, such as p5.48xlarge; default: the type of the build", forms.INSTANCE_TYPE
    )
    capacity: str = _key(
        "",
        "capacity reservation or block of these instances: open, none or its id; default: that of [aws]",
        forms.RESERVATION,
    )


Settings = AwsSettings | CheckSettings | MirrorSettings | RegistrySettings | CheckpointSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    aws: AwsSettings = AwsSettings()
    mirror: MirrorSettings = MirrorSettings()
    registry: RegistrySettings = RegistrySettings()
    checks: CheckSettings = CheckSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    given: frozenset[str] = frozenset()  # keys that the site file sets, such as "mirror.apt"


# Type that a value must have in the site file, by the type of the key's default value.
TYPES: Mapping[type, str] = {
    bool: FLAG,
    int: COUNT,
    str: TEXT,
    tuple: LIST,
    dict: STRINGS,
    type(None): FLAG,  # no value means neither true nor false
}

SECTIONS: Mapping[str, type[Settings]] = {
    "mirror": MirrorSettings,
    "registry": RegistrySettings,
    "aws": AwsSettings,
    "checks": CheckSettings,
    "checkpoints": CheckpointSettings,
}


def path_of(root: Path) -> Path:
    """Return the path of the site file of `root`; the file need not exist."""
    return Path(os.environ.get("BUILDER_SITE_FILE") or root / "site.toml")


def load(root: Path) -> Site:
    """Load the site file of `root`; raise UsageError that lists every problem."""
    path = path_of(root)
    if not os.path.lexists(path):
        if os.environ.get("BUILDER_SITE_FILE"):
            raise UsageError(
                f"BUILDER_SITE_FILE: no file {path}", hint="correct the path, or: unset BUILDER_SITE_FILE"
            )
        return Site()
    problems = Problems()
    tables = dict(_read(path, problems))
    sections = {name: _section(str(path), name, values, problems) for name, values in tables.items()}
    if problems.found:
        first, *others = problems.found
        more = f" (and {len(others)} more)" if others else ""
        raise UsageError(first + more, hint=f"correct {path}", details="\n".join(others))
    return Site(
        **sections, given=frozenset(f"{name}.{key}" for name, values in tables.items() for key in values)
    )


def _read(path: Path, problems: Problems) -> Iterable[tuple[str, Any]]:
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise MissingError(f"{path}: is a link to a missing file", hint=f"ls -l {path}") from error
    except UnreadableError as error:
        raise MissingError(f"{path}: {error}", hint=f"ls -ld {path}") from error
    except ValueError as error:
        problems.add(str(path), "", str(error))
        return ()
    table = parse_toml(text, str(path), problems)
    return table.items() if table else ()


def _section(file: str, name: str, values: object, problems: Problems) -> Any:
    kind = SECTIONS.get(name)
    if kind is None or not isinstance(values, dict):
        problems.add(file, "", f"unknown section '{name}'{did_you_mean(name, SECTIONS)}")
    elif fits(values, _shape(kind), file, f"{name}.", problems):
        for key in fields(kind):
            for problem in _misfits(key, values):
                problems.add(file, f"{name}.{problem[0]}", problem[1])
        return kind(**tuples(values))
    return None


def _shape(kind: type[Settings]) -> Shape:
    default = kind()
    return {key: (TYPES[type(getattr(default, key))], False) for key in kind.__dataclass_fields__}


def _misfits(key: Field[Any], table: Table) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of each text that does not match the pattern of its key."""
    form, value = key.metadata["form"], table.get(key.name)
    if form is None or not value:
        return
    if isinstance(value, dict):
        yield from _bad_prefixes(key.name, value, form)
        return
    for i, text in enumerate(value if isinstance(value, list) else [value]):
        if not form.fits(text):
            place = f"{key.name}[{i}]" if isinstance(value, list) else key.name
            yield place, f"must be {form.words}, not {text!r}"


def _bad_prefixes(key: str, prefixes: Mapping[str, str], form: Form) -> Iterator[tuple[str, str]]:
    for prefix, url in prefixes.items():
        expected = form if "://" in prefix else forms.IMAGES  # images have no scheme: docker.io/library/
        if not prefix:
            yield key, "a prefix must not be empty"
        elif not expected.fits(url):
            yield f"{key}.{prefix}", f"must be {expected.words}, not {url!r}"
