"""Build an environment in which tools use a rehearsal and cannot reach real AWS.

Sets the rehearsal's endpoint and credentials, and a proxy that refuses connections of tools that ignore the
endpoint. Hides the user's profiles, logins and metadata service. Tools get no hint that they run in a
rehearsal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.rehearsal.addresses import require_loopback
from builder.rehearsal.gate import Key

_LOCAL = "127.0.0.1,localhost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """Settings that restrict a tool to a rehearsal: environment of its process, endpoint, region and keys."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)


def fence(
    endpoint: str, *, key: Key, region: str, refusing_port: int, scratch: Path, inherited: Mapping[str, str]
) -> Fence:
    """Return the settings for tools that use the rehearsal at `endpoint` with its key.

    `scratch` holds the files that tools leave (temporary keys, logins); the caller deletes it. No process
    listens on `refusing_port`, so connections through that proxy are refused.
    """
    require_loopback(endpoint)
    temporary, docker = scratch / "tmp", scratch / "docker"
    for folder in (temporary, docker):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    nowhere = f"http://127.0.0.1:{refusing_port}"
    proxies = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "ALL_PROXY": nowhere, "NO_PROXY": _LOCAL}
    kept = {name: value for name, value in inherited.items() if not _is_foreign(name)}
    return Fence(
        endpoint=endpoint,
        region=region,
        access_key=key.access,
        secret_key=key.secret,
        environment={
            **kept,
            **proxies,
            **{name.lower(): value for name, value in proxies.items()},
            "AWS_ACCESS_KEY_ID": key.access,
            "AWS_SECRET_ACCESS_KEY": key.secret,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_DEFAULT_REGION": region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": region,
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "CHECKPOINT_DISABLE": "1",
            "DOCKER_CONFIG": str(docker),
            "TMPDIR": str(temporary),
        },
    )


def _is_foreign(name: str) -> bool:
    """True for variables of the user's AWS configuration, of Packer and of proxies."""
    return name.startswith(("AWS_", "PACKER_", "PKR_VAR_")) or name.upper().endswith("_PROXY")
