"""Push images and cached layers from the engine through the blob store to a registry."""

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.adapters.engine.client import LAYERS, Engine
from builder.adapters.host.network import Network
from builder.adapters.registry.api import Login, find_credentials
from builder.adapters.registry.blobs import DIGEST, BlobStore
from builder.adapters.registry.client import Registry, push
from builder.adapters.registry.exports import collect, copy
from builder.errors import BuildError, FactoryError, IntegrityError, PublishError
from builder.events import OnBytes, ignore_bytes
from builder.marks import KEY_LABEL
from builder.model import Artifact, Plan, Publication


@dataclass(frozen=True, kw_only=True, slots=True)
class _Route:
    """Route from an engine to `address` (`host[:port][/path]`), with compressed layers kept in `blobs`."""

    engine: Engine
    address: str
    blobs: Path
    network: Network
    cancelled: threading.Event | None = None
    credentials: Login | None = None  # default: those that `docker login` stored
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return self.address.partition("/")[0]

    @property
    def path(self) -> str:
        return self.address.partition("/")[2]

    def registry(self) -> Registry:
        credentials = self.credentials or find_credentials(self.host)
        return Registry(self.host, credentials=credentials, network=self.network, cancelled=self.cancelled)

    def push(
        self,
        image: str,
        *,
        registry: Registry,
        repository: str,
        tags: tuple[str, ...],
        mount_from: Sequence[str] = (),
        on_bytes: OnBytes = ignore_bytes,
    ) -> Publication:
        found = self.engine.inspect_image(image)
        if found is None:
            raise BuildError(f"no image {image} in the engine", hint="builder build TARGET --publish")
        store = BlobStore(self.blobs)
        # Images share most layers: if pushed one after another, each layer is compressed and sent only once.
        with self.lock, store.in_use():
            config, layers = collect(
                lambda: self.engine.export(image),
                image_id=str(found["Id"]),
                diff_ids=tuple(found["RootFS"]["Layers"]),
                store=store,
                storage=self.engine.storage,
                cancelled=self.cancelled,
            )
            return push(
                config,
                layers,
                registry=registry,
                repository=repository,
                tags=tags,
                mount_from=[name for name in mount_from if name != repository],
                on_bytes=on_bytes,
            )


def compress_layers(engine: Engine, image: str, blobs: Path, cancelled: threading.Event) -> None:
    """Compress the layers of an image that a later push needs, if they can be read without an export.

    Ignores errors: the push compresses what is missing and reports its errors.
    """
    with suppress(FactoryError, OSError):
        found = engine.inspect_image(image)
        if found is None or engine.storage is None:
            return
        store = BlobStore(blobs)
        with store.in_use():
            copy(
                engine.storage,
                image_id=str(found["Id"]),
                diff_ids=tuple(found["RootFS"]["Layers"]),
                store=store,
                cancelled=cancelled,
            )


class RegistryPublisher:
    """Publishes container images to `<repository_prefix>/<target>`.

    Blobs are mounted from the repositories of the other targets, whose names are in `siblings`.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        repository_prefix: str,
        blobs: Path,
        network: Network,
        siblings: Sequence[str] = (),
        cancelled: threading.Event | None = None,
        credentials: Login | None = None,
        ensure: Callable[[str], None] = lambda _: None,
        force: bool = False,
    ) -> None:
        self._siblings = siblings
        self._force = force  # also move the stack's tag to an image older than its current one
        self._ensure = ensure  # creates a repository where a push does not, as in ECR
        self._route = _Route(
            engine=engine,
            address=repository_prefix,
            blobs=blobs,
            network=network,
            cancelled=cancelled,
            credentials=credentials,
        )
        self._registry = self._route.registry()

    def holds(self, publication: Publication) -> bool:
        """True if the publication is in this registry and all its tags still point at its digest."""
        host, _, rest = publication.name.partition("/")
        repository = rest.partition("@")[0]
        if host != self._route.host or repository != self._repository(repository.rsplit("/", 1)[-1]):
            return False
        return all(
            self._registry.find_manifest(repository, tag) == publication.digest for tag in publication.tags
        )

    def publish(self, plan: Plan, artifact: Artifact, on_bytes: OnBytes = ignore_bytes) -> Publication:
        """Push the image under two tags: the stack's name, which moves to later images, and the plan key."""
        repository = self._repository(plan.target.name)
        self._ensure(repository)
        if not self._force:
            self._require_newer(repository, plan.stack.name, artifact.reference)
        return self._route.push(
            artifact.reference,
            registry=self._registry,
            repository=repository,
            tags=(plan.stack.name, f"key-{plan.key[:16]}"),
            mount_from=[self._repository(name) for name in self._siblings],
            on_bytes=on_bytes,
        )

    def _require_newer(self, repository: str, tag: str, image: str) -> None:
        """Raise PublishError if a tag would move to an older image."""
        current = self._registry.get_manifest(repository, tag)
        if current is None:
            return
        found = self._route.engine.inspect_image(image) or {}
        ours = _moment(found.get("Created"))
        theirs = _moment(_config_of(self._registry, repository, current[0]).get("created"))
        if ours and theirs and theirs > ours:
            raise PublishError(
                f"{self._route.host}/{repository}:{tag} is an image of {theirs:%Y-%m-%d %H:%M:%S},"
                f" and this image is older ({ours:%Y-%m-%d %H:%M:%S} UTC)",
                hint="build a newer image, or re-run the command with --force",
            )

    def _repository(self, name: str) -> str:
        return f"{self._route.path}/{name}" if self._route.path else name


class RegistryCache:
    """Cache of layers in one registry repository, each tagged `cache-<key>`, shared between engines.

    A layer whose label names another key counts as missing. The label does not prove who built the layer:
    everyone who may push to the repository is trusted.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        repository: str,
        blobs: Path,
        network: Network,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._route = _Route(
            engine=engine, address=repository, blobs=blobs, network=network, cancelled=cancelled
        )
        self._registry = self._route.registry()
        self._digests: dict[str, str] = {}  # by key, of layers whose label has been verified
        self._damaged: set[str] = set()

    def has(self, key: str) -> bool:
        if key in self._damaged:
            return False
        if key not in self._digests:
            try:
                found = self._registry.get_manifest(self._route.path, _tag(key))
                if found is None or self._key_of(found[0]) != key:
                    return False
            except IntegrityError:
                return False
            self._digests[key] = found[1]
        return True

    def fetch(self, key: str, on_bytes: OnBytes = ignore_bytes) -> bool:
        """Pull a layer that the cache has into the engine; return False if it does not match its digest."""
        engine, reference = self._route.engine, f"{self._route.address}@{self._digests[key]}"
        try:
            engine.pull(reference, login=self._login(), on_bytes=on_bytes)
        except IntegrityError:
            del self._digests[key]
            self._damaged.add(key)
            return False
        engine.tag(reference, LAYERS, key)
        engine.remove_image(reference)
        return True

    def _key_of(self, manifest: bytes) -> str:
        """Return the key in the label of an image; "" if it is not an image or has no such label."""
        try:
            return str(_config_of(self._registry, self._route.path, manifest)["config"]["Labels"][KEY_LABEL])
        except (KeyError, TypeError):
            return ""

    def keep(self, key: str) -> None:
        """Push a layer from the engine to the cache."""
        self._route.push(
            f"{LAYERS}:{key}", registry=self._registry, repository=self._route.path, tags=(_tag(key),)
        )
        self._damaged.discard(key)

    def _login(self) -> dict[str, str]:
        """Return the user name and password for pulls by the engine; empty if no login is stored."""
        credentials = find_credentials(self._route.host)
        if credentials is None:
            return {}
        return {"username": credentials.username, "password": credentials.password}


def _config_of(registry: Registry, repository: str, manifest: bytes) -> dict[str, Any]:
    """Return the config of an image in a registry; empty if the manifest is not of an image."""
    try:
        digest = str(json.loads(manifest)["config"]["digest"])
        found = json.loads(registry.get_blob(repository, digest)) if DIGEST.fullmatch(digest) else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _moment(text: object) -> datetime | None:
    """Return the creation time of an image in UTC; None if the text is no time."""
    try:
        found = datetime.fromisoformat(str(text))
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _tag(key: str) -> str:
    return f"cache-{key}"
