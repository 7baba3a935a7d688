"""Client for images in a registry: query, push without the engine, and pull with verified digests.

Knows blobs, manifests, tags and digests; must not know the engine or the purpose of an image.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from builder.adapters.host.http import SILENCE_S
from builder.adapters.host.network import Network
from builder.adapters.registry.api import Api, Login, Request
from builder.adapters.registry.blobs import CHUNK, DIGEST, LayerBlob, sha256
from builder.errors import IntegrityError, Interrupted, PublishError, UsageError
from builder.events import OnBytes, ignore_bytes
from builder.model import Publication

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_ACCEPT = ", ".join(
    (
        MANIFEST,
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_CONNECTIONS = 4
_PAGES = 1000
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    r"(?P<host>(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?)"
    rf"/(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Full name of an image: host[:port]/repository[:tag][@digest]."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _REFERENCE.fullmatch(text)
        # The engine reads a first part without "." or ":" as part of the repository, not as a host.
        if match is None or not (re.search(r"[.:]", match["host"]) or match["host"] == "localhost"):
            raise UsageError(
                f"{text!r} is not a full image name",
                hint="write HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST], e.g. localhost:5000/team/app:1.0",
            )
        found = match.groupdict(default="")
        return cls(
            host=found["host"], repository=found["repository"], tag=found["tag"], digest=found["digest"]
        )

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """Bytes to push: the file of a layer, or a config in memory."""

    digest: str
    size_bytes: int
    source: Path | bytes

    @classmethod
    def of(cls, content: LayerBlob | bytes) -> Self:
        if isinstance(content, LayerBlob):
            return cls(digest=content.digest, size_bytes=content.size_bytes, source=content.path)
        return cls(digest=sha256(content), size_bytes=len(content), source=content)

    def read(self) -> Iterator[bytes]:
        """Yield the bytes; if the digest is wrong, delete the file and raise before the last chunk."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        hashed, held = hashlib.sha256(), b""
        try:
            with self.source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    if held:
                        yield held
                    hashed.update(chunk)
                    held = chunk
        except FileNotFoundError as error:
            raise PublishError(
                f"{self.source}: the compressed layer was removed during the push", hint="re-run the command"
            ) from error
        if f"sha256:{hashed.hexdigest()}" != self.digest:
            self.source.unlink(missing_ok=True)
            raise IntegrityError(
                f"{self.source}: the stored layer is damaged: its digest is sha256:{hashed.hexdigest()}",
                hint="re-run the command: the file was deleted, and the layer is compressed again",
            )
        yield held


class Registry:
    """Thread-safe client of one registry; setting `cancelled` stops all its transfers at the next chunk.

    Without `network`, the proxies of the environment are used.
    """

    def __init__(
        self,
        host: str,
        *,
        credentials: Login | None = None,
        network: Network | None = None,
        cancelled: threading.Event | None = None,
        say: Callable[[str], None] = lambda _: None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.host = host
        self._api = Api(
            host,
            credentials=credentials,
            network=network,
            cancelled=cancelled,
            say=say,
            silence_s=silence_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api.http.close()

    def ping(self) -> None:
        """Raise MissingError if the registry is unreachable or refuses the credentials."""
        self._api.send(Request(method="GET", path="/v2/", about="ping"))

    def has_blob(self, repository: str, digest: str) -> bool:
        request = Request(
            method="HEAD",
            path=f"/v2/{repository}/blobs/{digest}",
            about=f"blob {digest}",
            repository=repository,
            expect=(200, 404),
        )
        return self._api.send(request).status == 200

    def push_blob(
        self,
        repository: str,
        blob: Blob,
        *,
        mount_from: Sequence[str] = (),
        stop: threading.Event | None = None,
        sent: Callable[[int], object] = lambda _: None,
    ) -> bool:
        """Push a blob; return False without sending it if it exists or can be mounted from `mount_from`.

        `sent` is called with the number of bytes sent so far; a retry starts again at 0.
        """
        if self.has_blob(repository, blob.digest):
            return False
        source = next((other for other in mount_from if self.has_blob(other, blob.digest)), "")
        return self._api.http.retry(
            f"{self.host}/{repository}: blob {blob.digest}",
            lambda: self._upload(repository, blob, source=source, stop=stop, sent=sent),
        )

    def _upload(
        self,
        repository: str,
        blob: Blob,
        *,
        source: str,
        stop: threading.Event | None,
        sent: Callable[[int], object],
    ) -> bool:
        """Upload a blob once; return False if it was mounted. A retry starts from the beginning."""
        start = f"/v2/{repository}/blobs/uploads/"
        about = f"blob {blob.digest}"
        if source:
            start += "?" + urlencode({"mount": blob.digest, "from": source})
        started = self._api.send_once(
            Request(
                method="POST",
                path=start,
                about=about,
                repository=repository,
                headers={"Content-Length": "0"},
                expect=(201, 202),
                scopes=(f"repository:{source}:pull",) if source else (),
            )
        )
        if started.status == 201:
            return False

        def chunks() -> Iterator[bytes]:
            done = 0
            for chunk in blob.read():
                if stop is not None and stop.is_set():
                    raise Interrupted(f"{about}: cancelled because another blob failed")
                sent(done)
                yield chunk
                done += len(chunk)

        location = started.headers.get("Location", "")
        if not location:
            raise PublishError(
                f"{self.host}/{repository}: {about}: the registry sent no Location for the upload",
                hint=f"check that the server is a registry: curl -i {self._api.origin}/v2/",
            )
        self._api.send_once(
            Request(
                method="PUT",
                path=f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': blob.digest})}",
                about=about,
                repository=repository,
                headers={
                    "Content-Length": str(blob.size_bytes),
                    "Content-Type": "application/octet-stream",
                },
                body=chunks,
                expect=(201, 204),
            )
        )
        return True

    def push_blobs(
        self,
        repository: str,
        blobs: Sequence[Blob],
        *,
        mount_from: Sequence[str] = (),
        on_bytes: OnBytes = ignore_bytes,
    ) -> tuple[int, int]:
        """Push blobs in parallel; return the bytes sent and the bytes that the registry already had."""
        stop = threading.Event()
        pushed = reused = 0
        present = dict.fromkeys((blob.digest for blob in blobs), 0)  # bytes in the registry
        total = sum(blob.size_bytes for blob in blobs)

        def count(digest: str, size_bytes: int) -> None:
            present[digest] = size_bytes
            on_bytes(sum(present.values()), total)

        with ThreadPoolExecutor(_CONNECTIONS, "push") as pool:
            pending = {
                pool.submit(
                    self.push_blob,
                    repository,
                    blob,
                    mount_from=mount_from,
                    stop=stop,
                    sent=partial(count, blob.digest),
                ): blob
                for blob in blobs
            }
            try:
                for done in as_completed(pending):
                    is_sent = done.result()
                    count(pending[done].digest, pending[done].size_bytes)
                    if is_sent:
                        pushed += pending[done].size_bytes
                    else:
                        reused += pending[done].size_bytes
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return pushed, reused

    def find_manifest(self, repository: str, reference: str) -> str | None:
        """Return the digest of the manifest that the registry serves for a tag or digest, or None.

        Hashes the manifest, because the digest in the headers proves nothing about the content.
        """
        response = self._api.send(self._manifest_request(repository, reference))
        return None if response.status == 404 else sha256(response.body)

    def get_manifest(self, repository: str, reference: str) -> tuple[bytes, str, str] | None:
        """Return bytes, digest and media type of a manifest by tag or digest, or None."""
        response = self._api.send(self._manifest_request(repository, reference))
        if response.status == 404:
            return None
        digest = sha256(response.body)
        announced = {response.headers.get("Docker-Content-Digest", digest)}
        if DIGEST.fullmatch(reference):
            announced.add(reference)
        if announced != {digest}:
            raise self._mismatch(repository, f"manifest {reference}", sorted(announced)[0], digest)
        return response.body, digest, response.headers.get("Content-Type", MANIFEST)

    def _manifest_request(self, repository: str, reference: str) -> Request:
        return Request(
            method="GET",
            path=f"/v2/{repository}/manifests/{reference}",
            about=f"manifest {reference}",
            repository=repository,
            headers={"Accept": _ACCEPT},
            expect=(200, 404),
        )

    def put_manifest(
        self, repository: str, reference: str, content: bytes, media_type: str = MANIFEST
    ) -> str:
        """Push a manifest under a tag or its digest, and verify the digest that the registry then returns."""
        digest = sha256(content)
        self._api.send(
            Request(
                method="PUT",
                path=f"/v2/{repository}/manifests/{reference}",
                about=f"manifest {reference}",
                repository=repository,
                headers={"Content-Type": media_type, "Content-Length": str(len(content))},
                body=lambda: iter((content,)),
                expect=(201, 202),
            )
        )
        found = self.find_manifest(repository, reference)
        if found != digest:
            raise self._mismatch(repository, f"manifest {reference}", digest, found or "nothing")
        return digest

    def get_blob(self, repository: str, digest: str) -> bytes:
        """Return a small blob, such as the config of an image, with its digest verified."""
        about = f"blob {digest}"
        path = f"/v2/{repository}/blobs/{digest}"
        body = self._api.send(Request(method="GET", path=path, about=about, repository=repository)).body
        if sha256(body) != digest:
            raise self._mismatch(repository, about, digest, sha256(body))
        return body

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return all tags of a repository; empty if it does not exist."""
        path = f"/v2/{repository}/tags/list"
        found: list[str] = []
        for _ in range(_PAGES):
            response = self._api.send(
                Request(method="GET", path=path, about="tags", repository=repository, expect=(200, 404))
            )
            if response.status == 404:
                break
            tags = response.json().get("tags")
            found += [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else ()
            following = re.match(r'<([^>]+)>;\s*rel="?next"?', response.headers.get("Link", ""))
            if following is None:
                break
            path = following[1]
        return tuple(sorted(found))

    def _mismatch(self, repository: str, subject: str, wanted: str, got: str) -> IntegrityError:
        return IntegrityError(
            f"{self.host}/{repository}: {subject}: expected {wanted}, the registry has {got}",
            hint="the tag was overwritten concurrently, or a proxy modifies content: push under another tag",
        )


def manifest(image_config: bytes, layers: Sequence[LayerBlob]) -> bytes:
    """Return the OCI manifest of an image, so that its digest is known before the push.

    Its annotations are the labels that the OCI image specification defines.
    """

    def describe(media_type: str, blob: Blob) -> dict[str, str | int]:
        return {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}

    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe(CONFIG, Blob.of(image_config)),
        "layers": [describe(LAYER, Blob.of(layer)) for layer in layers],
    }
    if annotations := _annotations(image_config):
        document["annotations"] = annotations
    return json.dumps(document, separators=(",", ":")).encode()


def _annotations(image_config: bytes) -> dict[str, str]:
    try:
        labels = json.loads(image_config)["config"]["Labels"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: value for name, value in sorted(labels) if name.startswith("org.opencontainers.image.")}


def push(
    image_config: bytes,
    layers: Sequence[LayerBlob],
    *,
    registry: Registry,
    repository: str,
    tags: Sequence[str],
    mount_from: Sequence[str] = (),
    on_bytes: OnBytes = ignore_bytes,
) -> Publication:
    """Push an image to a registry: the missing blobs, then the manifest under every tag.

    A tag that already has this manifest is skipped, so that a second push costs one round trip per tag and
    works with immutable tags.
    """
    content = manifest(image_config, layers)
    digest = sha256(content)
    blobs = {blob.digest: blob for blob in [Blob.of(image_config), *[Blob.of(layer) for layer in layers]]}
    references = tags or (digest,)
    absent = [name for name in references if registry.find_manifest(repository, name) != digest]
    pushed, reused = 0, sum(blob.size_bytes for blob in blobs.values())
    if absent:
        pushed, reused = registry.push_blobs(
            repository, tuple(blobs.values()), mount_from=mount_from, on_bytes=on_bytes
        )
    for name in absent:
        registry.put_manifest(repository, name, content)
    return Publication(
        name=f"{registry.host}/{repository}@{digest}",
        digest=digest,
        tags=tuple(tags),
        pushed_bytes=pushed,
        reused_bytes=reused,
    )
