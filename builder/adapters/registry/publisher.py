"""Pushes finished images to a registry, and shares layers through one: engine → blob store → registry."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.adapters.engine.client import LAYERS, Engine
from builder.adapters.host.network import Network
from builder.adapters.registry.api import Credentials, find_credentials
from builder.adapters.registry.blobs import BlobStore
from builder.adapters.registry.client import Registry, push
from builder.adapters.registry.exports import collect
from builder.errors import BuildError
from builder.model import Artifact, Plan, Publication


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """From an engine to one place, `host[:port][/path]`, over compressed layers kept in `blobs`."""

    engine: Engine
    place: str
    blobs: Path
    network: Network
    cancelled: threading.Event | None = None
    credentials: Credentials | None = None  # else those that the engine was logged in with
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return self.place.partition("/")[0]

    @property
    def path(self) -> str:
        return self.place.partition("/")[2]

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
    ) -> Publication:
        found = self.engine.inspect_image(image)
        if found is None:
            raise BuildError(f"no image {image} in the engine", hint="build it again")
        store = BlobStore(self.blobs)
        # One at a time: images share most of their layers, which are then compressed and sent once.
        with self.turn, store.in_use():
            config, layers = collect(
                lambda: self.engine.export(image),
                image_id=str(found["Id"]),
                diff_ids=tuple(found["RootFS"]["Layers"]),
                store=store,
                cancelled=self.cancelled,
            )
            return push(
                config,
                layers,
                registry=registry,
                repository=repository,
                tags=tags,
                mount_from=[name for name in mount_from if name != repository],
            )


class RegistryPublisher:
    """One place for images; the target's name goes behind it, and `siblings` are the other names there."""

    def __init__(
        self,
        *,
        engine: Engine,
        place: str,
        blobs: Path,
        network: Network,
        siblings: Sequence[str] = (),
        cancelled: threading.Event | None = None,
        credentials: Credentials | None = None,
        ensure: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._siblings = siblings
        self._ensure = ensure  # makes a repository, where the registry does not do that when it is pushed to
        self._way = _Way(
            engine=engine,
            place=place,
            blobs=blobs,
            network=network,
            cancelled=cancelled,
            credentials=credentials,
        )
        self._registry = self._way.registry()

    def holds(self, publication: Publication) -> bool:
        """Whether a publication is in this place and its tags still lead to it."""
        host, _, rest = publication.name.partition("/")
        repository = rest.partition("@")[0]
        if host != self._way.host or repository != self._repository(repository.rsplit("/", 1)[-1]):
            return False
        return all(
            self._registry.find_manifest(repository, tag) == publication.digest for tag in publication.tags
        )

    def publish(self, plan: Plan, artifact: Artifact) -> Publication:
        """Under the stack's name, which moves, and under the key, which never does."""
        repository = self._repository(plan.target.name)
        self._ensure(repository)
        return self._way.push(
            artifact.reference,
            registry=self._registry,
            repository=repository,
            tags=(plan.stack.name, f"key-{plan.key[:16]}"),
            mount_from=[self._repository(name) for name in self._siblings],
        )

    def _repository(self, name: str) -> str:
        return f"{self._way.path}/{name}" if self._way.path else name


class RegistryCache:
    """Layers in one repository, each under `cache-<key>`, for other engines to begin with."""

    def __init__(
        self,
        *,
        engine: Engine,
        place: str,
        blobs: Path,
        network: Network,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._way = _Way(engine=engine, place=place, blobs=blobs, network=network, cancelled=cancelled)
        self._registry = self._way.registry()

    def has(self, key: str) -> bool:
        return self._registry.find_manifest(self._way.path, _tag(key)) is not None

    def fetch(self, key: str) -> None:
        """Makes the layer one of this engine's."""
        engine, reference = self._way.engine, f"{self._way.place}:{_tag(key)}"
        engine.pull(reference, login=self._login())
        engine.tag(reference, LAYERS, key)
        engine.remove_image(reference)

    def keep(self, key: str) -> None:
        """Brings a layer of this engine to the others."""
        self._way.push(
            f"{LAYERS}:{key}", registry=self._registry, repository=self._way.path, tags=(_tag(key),)
        )

    def _login(self) -> dict[str, str]:
        """User name and password with which the engine pulls; empty if the registry takes none."""
        credentials = find_credentials(self._way.host)
        if credentials is None:
            return {}
        return {"username": credentials.username, "password": credentials.password}


def _tag(key: str) -> str:
    return f"cache-{key}"
