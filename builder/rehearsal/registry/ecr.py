"""The rehearsal's ECR: moto's control plane and a registry server per region, kept in sync.

A pushed image appears in DescribeImages; a deleted image cannot be pulled. A push creates no repositories,
and the registry respects the tag mutability of each repository.
"""

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from moto.core.responses import ActionResult
from moto.ecr.exceptions import ImageAlreadyExistsException, InvalidParameterException
from moto.ecr.models import ECRBackend, Image, Repository, ecr_backends
from moto.ecr.responses import ECRResponse

from builder.rehearsal.registry.server import LocalRegistry
from builder.rehearsal.registry.storage import Refused, Storage, invalid

_TOKEN_LIFE = timedelta(hours=12)
_USER = "AWS"


class StoredImage(Image):
    """An image in ECR, whose size is the sum of its layers."""

    __module__ = "moto.ecr.models"

    def get_image_size_in_bytes(self) -> int | None:
        layers = json.loads(self.image_manifest).get("layers")
        return sum(layer["size"] for layer in layers) if layers is not None else None


class EcrStorage(Storage):
    """Storage of a region's registry, with repositories and tag mutability from the control plane."""

    def __init__(self, folder: Path, *, region: str, account_id: str) -> None:
        super().__init__(folder, create_on_push=False)
        self._region = region
        self._account_id = account_id

    @property
    def _backend(self) -> "RehearsedEcr":
        backend = ecr_backends[self._account_id][self._region]
        assert isinstance(backend, RehearsedEcr)
        return backend

    def _repository(self, name: str) -> Path:
        try:
            return super()._repository(name)
        except Refused as refused:
            raise Refused(
                refused.status,
                refused.code,
                f"The repository with name '{name}' does not exist in the registry with id"
                f" '{self._account_id}'",
            ) from None

    def mount(self, name: str, digest: str, *, source: str) -> bool:  # noqa: ARG002 (the base's)
        """Refuse to mount a blob of another repository, as ECR does."""
        self._prepare(name)
        return False

    def _check_tag(self, name: str, tag: str, digest: str) -> None:
        super()._check_tag(name, tag, digest)
        path = self._repository(name) / "_tags" / tag
        if path.exists() and path.read_text() != digest and self._backend.is_immutable(name, tag):
            raise invalid(
                "TAG_INVALID",
                f"The image tag '{tag}' already exists in the '{name}' repository"
                " and cannot be overwritten because the repository is immutable.",
            )

    def put_manifest(self, name: str, reference: str, content: bytes, media_type: str) -> str:
        with self._lock:
            digest = super().put_manifest(name, reference, content, media_type)
            tag = reference if reference != digest else None
            self._backend.record(name, content.decode(), tag, media_type, digest)
        return digest

    def keep_only(self, name: str, images: Iterable[Image]) -> None:
        """Remove the tags and manifests of images that the control plane has deleted."""
        with self._lock:
            repository = self._repository(name)
            kept = list(images)
            tags, digests = (
                {tag for image in kept for tag in image.image_tags},
                {i.image_digest for i in kept},
            )
            for kind, wanted in (("_tags", tags), ("_manifests", digests)):
                for path in (repository / kind).iterdir():
                    if path.name not in wanted:
                        path.unlink()


class RehearsedEcr(ECRBackend):
    """The control plane of ECR in one region."""

    __module__ = "moto.ecr.models"

    registries: ClassVar["Registries"]

    @property
    def _storage(self) -> EcrStorage:
        return self.registries.open(self.region_name).storage

    def create_repository(self, *args: Any, **kwargs: Any) -> Repository:
        repository = super().create_repository(*args, **kwargs)
        self._storage.create_repository(repository.name)
        repository.uri = f"{self.registries.open(self.region_name).host}/{repository.name}"
        return repository

    def delete_repository(self, *args: Any, **kwargs: Any) -> Repository:
        repository = super().delete_repository(*args, **kwargs)
        self._storage.remove_repository(repository.name)
        return repository

    def put_image(
        self,
        repository_name: str,
        image_manifest: str,
        image_tag: str,
        image_manifest_mediatype: str | None = None,
        digest: str | None = None,
    ) -> Image:
        repository = self._get_repository(repository_name)
        content = image_manifest.encode()
        real = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if digest and digest != real:
            raise InvalidParameterException(f"The manifest's digest is {real}, not {digest}")
        with suppress(StopIteration):
            found = next(image for image in repository.images if image.image_digest == real)
            if image_tag in found.image_tags:
                raise ImageAlreadyExistsException(repository.registry_id, image_tag, real, repository_name)
        media_type = image_manifest_mediatype or json.loads(image_manifest).get("mediaType", "")
        try:
            self._storage.put_manifest(repository_name, image_tag or real, content, media_type)
        except Refused as refused:
            raise InvalidParameterException(f"{refused.code}: {refused.message}") from None
        return repository._get_image(image_tag, real)

    def record(self, name: str, manifest: str, tag: str | None, media_type: str, digest: str) -> None:
        """Add an image that was pushed to the registry to the control plane."""
        images = self.repositories[name].images
        for image in images:
            if tag in image.image_tags and image.image_digest != digest:
                image.image_tags.remove(tag)
                image.image_tag = image.image_tags[-1] if image.image_tags else None  # type: ignore[assignment]
        found = next((image for image in images if image.image_digest == digest), None)
        if found is None:
            fields: dict[str, Any] = {"tag": tag, "manifest": manifest, "repository": name, "digest": digest}
            images.append(StoredImage(self.account_id, **fields, image_manifest_mediatype=media_type))
        elif tag:
            found.update_tag(tag)

    def is_immutable(self, name: str, tag: str) -> bool:
        try:
            self._resolve_image_tag_mutability(self.repositories[name], tag)
        except ImageAlreadyExistsException:
            return True
        return False

    def batch_delete_image(self, repository_name: str, *args: Any, **kwargs: Any) -> Any:
        done = super().batch_delete_image(repository_name, *args, **kwargs)
        self._storage.keep_only(repository_name, self.repositories[repository_name].images)
        return done

    def batch_check_layer_availability(
        self, repository_name: str, layer_digests: list[str], registry_id: str | None = None
    ) -> dict[str, Any]:
        repository = self._get_repository(repository_name, registry_id)
        for digest in layer_digests:
            with suppress(Refused):
                repository.layers[digest] = self._storage.blob(repository_name, digest).stat().st_size
        return super().batch_check_layer_availability(repository_name, layer_digests, registry_id)


class EcrActions(ECRResponse):
    """Handler of a request to ECR."""

    def get_authorization_token(self) -> ActionResult:
        registry = RehearsedEcr.registries.open(self.region)
        token = base64.b64encode(f"{_USER}:{registry.password}".encode()).decode()
        answer = {
            "authorizationToken": token,
            "expiresAt": datetime.now(UTC) + _TOKEN_LIFE,
            "proxyEndpoint": f"http://{registry.host}",
        }
        return ActionResult({"authorizationData": [answer]})


@dataclass(frozen=True, kw_only=True)
class _Registry:
    server: LocalRegistry
    password: str

    @property
    def host(self) -> str:
        return self.server.host

    @property
    def storage(self) -> EcrStorage:
        assert isinstance(self.server.storage, EcrStorage)
        return self.server.storage


class Registries:
    """Registry servers by region, each opened when its region is first used and all closed together."""

    def __init__(self, folder: Path, account_id: str) -> None:
        self._folder = folder
        self._account_id = account_id
        self._open: dict[str, _Registry] = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def open(self, region: str) -> _Registry:
        with self._lock:
            if region not in self._open:
                password = secrets.token_urlsafe(48)
                server = self._stack.enter_context(self._listen(region, password))
                self._open[region] = _Registry(server=server, password=password)
            return self._open[region]

    def _listen(self, region: str, password: str) -> LocalRegistry:
        folder = self._folder / region
        folder.mkdir(parents=True, exist_ok=True)
        return LocalRegistry(
            folder,
            login=(_USER, password),
            storage=lambda path: EcrStorage(path, region=region, account_id=self._account_id),
        )

    @property
    def hosts(self) -> dict[str, str]:
        return {region: registry.host for region, registry in self._open.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
