"""Which image a tag means for one kind of machine, and whether a locked one is still to be had.

Knows indexes, manifests and configs as registries serve them; every byte is compared with its digest.
"""

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.adapters.registry.api import find_credentials
from builder.adapters.registry.client import Reference, Registry
from builder.adapters.upstream.mirror import Mirror
from builder.arch import ARCHES
from builder.errors import IntegrityError, MissingError, PublishError

# What images call the machines; and the host that answers for a name that everybody uses.
_HOSTS = {"docker.io": "registry-1.docker.io"}


def pick_image(name: str, *, arch: str, mirror: Mirror, cancelled: threading.Event) -> str:
    """The digest of the image that `name` (by tag) is for a machine."""
    reference = Reference.parse(name)
    with _open(reference, mirror, cancelled) as registry:
        content, digest = _manifest(registry, reference, reference.tag or "latest")
        if "manifests" not in content:
            _require_architecture(registry, reference, content, arch)
            return digest
        entries = [entry for entry in content["manifests"] if _fits(entry.get("platform", {}), arch)]
        if not entries:
            raise MissingError(f"{name} is not there for {arch}", hint=f"docker manifest inspect {name}")
        return _manifest(registry, reference, str(entries[0]["digest"]))[1]


def require_image(name: str, *, digest: str, mirror: Mirror, cancelled: threading.Event) -> None:
    """Raises IntegrityError where the registry has no image of that digest any more."""
    reference = Reference.parse(name)
    with _open(reference, mirror, cancelled) as registry:
        if registry.get_manifest(reference.repository, digest) is None:
            raise IntegrityError(f"{reference.host}/{reference.repository} has no {digest} any more")


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
    return json.loads(found[0]), found[1]


def _fits(platform: dict[str, str], arch: str) -> bool:
    """An index also lists attestations, whose machine is unknown."""
    return platform.get("os") == "linux" and platform.get("architecture") == ARCHES[arch].deb


def _require_architecture(
    registry: Registry, reference: Reference, content: dict[str, Any], arch: str
) -> None:
    """A name without an index is one image, and its config says for what machine."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        registry.fetch_blob(reference.repository, str(content["config"]["digest"]), config)
        found = json.loads(config.read_text(encoding="utf-8")).get("architecture")
    if found != ARCHES[arch].deb:
        raise MissingError(
            f"{reference} is for {found}, not for {ARCHES[arch].deb}", hint="name an image that has both"
        )
