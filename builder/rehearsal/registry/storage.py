"""File storage of the rehearsal's registry, with the rules of the distribution specification and of ECR.

Knows digests, tags and manifests; knows nothing about HTTP except the status codes of refusals.
"""

import hashlib
import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from builder.errors import UsageError

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = rf"(?P<name>{_PART}(?:/{_PART})*)"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Refused(Exception):
    """An error of the distribution specification: HTTP status, code and message."""

    def __init__(
        self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def unknown(code: str, what: str) -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, code, f"{what} is not known to this registry")


def invalid(code: str, message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, code, message)


def checked_digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise invalid("DIGEST_INVALID", f"{digest!r} is not a sha256 digest")
    return digest


@dataclass(kw_only=True, slots=True)
class Upload:
    repository: str
    path: Path
    size: int = 0
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Storage:
    """Blobs by digest, and the blobs, manifests and tags of each repository, as files.

    File names come from digests, tags and repository names that match the patterns of the specification, so
    none contains "..". Names of internal folders begin with "_", which the patterns exclude.
    """

    def __init__(self, folder: Path, *, create_on_push: bool = True, immutable_tags: bool = False) -> None:
        self._blobs = folder / "blobs"
        self._repositories = folder / "repositories"
        self._uploading = folder / "uploads"
        self._create_on_push = create_on_push
        self._immutable_tags = immutable_tags
        self._lock = threading.RLock()
        self._uploads: dict[str, Upload] = {}
        shutil.rmtree(self._uploading, ignore_errors=True)  # upload sessions do not survive a restart
        for path in (self._blobs, self._repositories, self._uploading):
            path.mkdir(parents=True, exist_ok=True)

    def create_repository(self, name: str) -> None:
        if not re.fullmatch(NAME, name):
            raise UsageError(
                f"{name!r} is not a repository name", hint="use lower case, as in team/application"
            )
        for kind in ("_blobs", "_manifests", "_tags"):
            (self._repositories / name / kind).mkdir(parents=True, exist_ok=True)

    def remove_repository(self, name: str) -> None:
        """Remove a repository and its content, but not the repositories below it."""
        repository = self._repository(name)
        for kind in ("_blobs", "_tags", "_manifests"):
            shutil.rmtree(repository / kind)

    def repositories(self) -> list[str]:
        found = self._repositories.rglob("_manifests")
        return sorted(str(path.parent.relative_to(self._repositories)) for path in found)

    def _repository(self, name: str) -> Path:
        path = self._repositories / name
        if not (path / "_manifests").is_dir():
            raise unknown("NAME_UNKNOWN", f"repository {name}")
        return path

    def blob(self, name: str, digest: str) -> Path:
        if not (self._repository(name) / "_blobs" / checked_digest(digest)).exists():
            raise unknown("BLOB_UNKNOWN", f"blob {digest}")
        return self._blobs / digest

    def mount(self, name: str, digest: str, *, source: str) -> bool:
        """Share a blob of repository `source`; return False if it has no such blob."""
        self._prepare(name)
        with suppress(Refused):
            self.blob(source, digest)
            self._link(name, digest)
            return True
        return False

    def remove_blob(self, name: str, digest: str) -> None:
        self.blob(name, digest)
        (self._repository(name) / "_blobs" / digest).unlink(missing_ok=True)

    def _prepare(self, name: str) -> None:
        if self._create_on_push:
            self.create_repository(name)
        self._repository(name)

    def _link(self, name: str, digest: str) -> None:
        (self._repository(name) / "_blobs" / digest).touch()

    def begin_upload(self, name: str) -> str:
        self._prepare(name)
        identifier = uuid.uuid4().hex
        path = self._uploading / identifier
        path.touch()
        with self._lock:
            self._uploads[identifier] = Upload(repository=name, path=path)
        return identifier

    def upload(self, name: str, identifier: str) -> Upload:
        with self._lock:
            upload = self._uploads.get(identifier)
        if upload is None or upload.repository != name:
            raise unknown("BLOB_UPLOAD_UNKNOWN", f"upload {identifier}")
        return upload

    def append(self, upload: Upload, chunks: Iterator[bytes], *, start: int | None = None) -> None:
        """Append bytes to an upload; leave it unchanged if the connection breaks."""
        with upload.lock:
            if start is not None and start != upload.size:
                raise Refused(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                    "BLOB_UPLOAD_INVALID",
                    f"the upload holds {upload.size} bytes, the chunk begins at {start}",
                )
            size, sha256 = upload.size, upload.sha256.copy()
            with upload.path.open("r+b") as file:
                file.truncate(upload.size)
                file.seek(upload.size)
                for chunk in chunks:
                    file.write(chunk)
                    sha256.update(chunk)
                    size += len(chunk)
            upload.size, upload.sha256 = size, sha256

    def finish_upload(self, name: str, identifier: str, digest: str) -> None:
        upload = self.upload(name, identifier)
        with upload.lock:
            real = f"sha256:{upload.sha256.hexdigest()}"
            if real != checked_digest(digest):
                self.cancel_upload(name, identifier)
                raise invalid("DIGEST_INVALID", f"announced {digest}, received {real}")
            upload.path.rename(self._blobs / digest)
            self._link(name, digest)
            with self._lock:
                self._uploads.pop(identifier, None)

    def cancel_upload(self, name: str, identifier: str) -> None:
        self.upload(name, identifier).path.unlink(missing_ok=True)
        with self._lock:
            self._uploads.pop(identifier, None)

    def put_manifest(self, name: str, reference: str, content: bytes, media_type: str) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._prepare(name)
        self._check_manifest(name, content, media_type)
        with self._lock:
            repository = self._repository(name)
            if not _DIGEST.fullmatch(reference):
                self._check_tag(name, reference, digest)
                self._write(repository / "_tags" / reference, digest.encode())
            elif reference != digest:
                raise invalid("DIGEST_INVALID", f"announced {reference}, received {digest}")
            self._write(self._blobs / digest, content)
            self._write(repository / "_manifests" / digest, media_type.encode())
        return digest

    def _check_tag(self, name: str, tag: str, digest: str) -> None:
        if not _TAG.fullmatch(tag):
            raise invalid("TAG_INVALID", f"{tag!r} is not a tag")
        path = self._repository(name) / "_tags" / tag
        if self._immutable_tags and path.exists() and path.read_text() != digest:
            raise invalid(
                "TAG_INVALID",
                f"The image tag '{tag}' already exists in the '{name}' repository"
                " and cannot be overwritten because the repository is immutable.",
            )

    def _check_manifest(self, name: str, content: bytes, media_type: str) -> None:
        repository = self._repository(name)
        try:
            manifest = json.loads(content)
            if manifest.get("mediaType", media_type) != media_type:
                raise invalid("MANIFEST_INVALID", f"mediaType differs from Content-Type {media_type}")
            if media_type in _INDEXES:
                kind, parts = "_manifests", manifest["manifests"]
            elif media_type in _MANIFESTS:
                kind, parts = "_blobs", [manifest["config"], *manifest["layers"]]
            else:
                raise invalid("MANIFEST_INVALID", f"media type {media_type!r} is not accepted here")
            digests = [checked_digest(part["digest"]) for part in parts if not part.get("urls")]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise invalid("MANIFEST_INVALID", f"not a manifest: {error!r}") from error
        for digest in digests:
            if not (repository / kind / digest).exists():
                raise unknown("MANIFEST_BLOB_UNKNOWN", f"{digest}, which the manifest names,")

    def manifest(self, name: str, reference: str) -> tuple[bytes, str, str]:
        """Return the bytes, digest and media type of a manifest."""
        repository = self._repository(name)
        digest = self._digest(repository, reference)
        try:
            media_type = (repository / "_manifests" / digest).read_text()
        except FileNotFoundError:
            raise unknown("MANIFEST_UNKNOWN", f"manifest {reference}") from None
        return (self._blobs / digest).read_bytes(), digest, media_type

    def _digest(self, repository: Path, reference: str) -> str:
        if _DIGEST.fullmatch(reference):
            return reference
        if not _TAG.fullmatch(reference):
            raise invalid("MANIFEST_INVALID", f"{reference!r} is neither a tag nor a digest")
        try:
            return (repository / "_tags" / reference).read_text()
        except FileNotFoundError:
            raise unknown("MANIFEST_UNKNOWN", f"tag {reference}") from None

    def remove_manifest(self, name: str, reference: str) -> None:
        """Remove a manifest and its tags if `reference` is a digest, only the tag if it is a tag."""
        with self._lock:
            _, digest, _ = self.manifest(name, reference)
            repository = self._repository(name)
            for tag in self.tags(name):
                path = repository / "_tags" / tag
                if reference == tag or (reference == digest and path.read_text() == digest):
                    path.unlink()
            if reference == digest:
                (repository / "_manifests" / digest).unlink()

    def tags(self, name: str) -> list[str]:
        return sorted(path.name for path in (self._repository(name) / "_tags").iterdir())

    def _write(self, path: Path, content: bytes) -> None:
        partial = self._uploading / uuid.uuid4().hex
        partial.write_bytes(content)
        partial.rename(path)
