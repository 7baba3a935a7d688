"""Resolve image tags to the digest for an architecture, and check that locked digests still exist.

Knows indexes, manifests and configs of registries; all content is verified against its digest.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from builder.adapters.registry.api import find_credentials
from builder.adapters.registry.blobs import DIGEST
from builder.adapters.registry.client import Reference, Registry
from builder.adapters.upstream.mirror import Mirror
from builder.arch import ARCHES
from builder.errors import IntegrityError, MissingError, PublishError

# Registry names whose API is served by another host.
_HOSTS = {"docker.io": "registry-1.docker.io"}


def pick_image(name: str, *, arch: str, mirror: Mirror, cancelled: threading.Event) -> str:
    """Return the digest of the image `name` (with a tag) for an architecture."""
    reference = Reference.parse(name)
    with _open(reference, mirror, cancelled) as registry:
        content, digest = _manifest(registry, reference, reference.tag or "latest")
        if "manifests" not in content:
            _require_architecture(registry, reference, content, arch)
            return digest
        entries = content["manifests"] if isinstance(content["manifests"], list) else []
        found = next((_digest_of(entry) for entry in entries if _fits(entry, arch)), "")
        if not found:
            raise MissingError(f"{name} has no image for {arch}", hint=f"docker manifest inspect {name}")
        return _manifest(registry, reference, found)[1]


def require_image(name: str, *, digest: str, mirror: Mirror, cancelled: threading.Event) -> None:
    """Raise IntegrityError if the registry no longer has the image with this digest."""
    reference = Reference.parse(name)
    with _open(reference, mirror, cancelled) as registry:
        if registry.get_manifest(reference.repository, digest) is None:
            raise IntegrityError(f"{reference.host}/{reference.repository} no longer has {digest}")


@contextmanager
def _open(reference: Reference, mirror: Mirror, cancelled: threading.Event) -> Iterator[Registry]:
    host = _HOSTS.get(reference.host, reference.host)
    credentials = find_credentials(reference.host)
    try:
        with Registry(host, credentials=credentials, network=mirror.network, cancelled=cancelled) as registry:
            yield registry
    except PublishError as error:
        raise MissingError(error.message, hint=error.hint) from error


def _manifest(registry: Registry, reference: Reference, name: str) -> tuple[dict[str, Any], str]:
    found = registry.get_manifest(reference.repository, name)
    if found is None:
        raise MissingError(
            f"{reference.host}/{reference.repository} has no {name}",
            hint=f"docker manifest inspect {reference}",
        )
    return _table(found[0]), found[1]


def _table(text: bytes) -> dict[str, Any]:
    """Return a JSON document of a registry; empty if the document is not an object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _fits(entry: Any, arch: str) -> bool:
    """True if an index entry is for this architecture; attestations are for platform "unknown"."""
    platform = entry.get("platform") if isinstance(entry, dict) else None
    wanted = {"os": "linux", "architecture": ARCHES[arch].deb}
    return isinstance(platform, dict) and wanted.items() <= {k: platform.get(k) for k in wanted}.items()


def _digest_of(description: Any) -> str:
    """Return the digest in the OCI descriptor of a manifest or config, or ""."""
    digest = description.get("digest") if isinstance(description, dict) else None
    return digest if isinstance(digest, str) and DIGEST.fullmatch(digest) else ""


def _require_architecture(
    registry: Registry, reference: Reference, content: dict[str, Any], arch: str
) -> None:
    """Raise MissingError if an image without an index has a config for another architecture."""
    digest = _digest_of(content.get("config"))
    if not digest:
        raise MissingError(
            f"{reference.host}: {reference} is not an image", hint=f"docker manifest inspect {reference}"
        )
    found = _table(registry.get_blob(reference.repository, digest)).get("architecture")
    if found != ARCHES[arch].deb:
        raise MissingError(
            f"{reference} is for {found}, not for {ARCHES[arch].deb}",
            hint="choose an image that is published for both architectures",
        )
