"""The container engine over its plain socket, with the standard library alone.

Look-ups, removal and streams of whole images live here, so that a build with nothing to do
never loads the engine's SDK; the SDK serves where containers really start (`layers`, `testinfra`).
"""

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from builder.errors import BuildError, IntegrityError, MissingError

LAYERS = "factory-layers"  # repository of all layers in the engine; the tag is the key
_TIMEOUT_S = 60
_LONG_S = 1800
_HINT = "start it (systemctl start docker), or see: builder doctor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image of the engine, as far as the factory asks."""

    id: str
    size_bytes: int
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    created: int
    parent: str = ""  # id of the image below; engines that keep images in containerd name none


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """An answer whose body has not been read yet."""

    status: int
    body: IO[bytes]


class Engine:
    """Requests to one engine; every call is a connection of its own, so threads may share an Engine.

    The requests are HTTP/1.0, whose answers end with the connection: that leaves nothing to parse that would
    need a library, and http.client alone costs a third of a build that has nothing to do.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"

    def _connect(self, timeout_s: float) -> socket.socket:
        scheme, _, place = self.url.partition("://")
        if scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout_s)
            connection.connect(place)
            return connection
        if scheme in ("tcp", "http") and not os.environ.get("DOCKER_TLS_VERIFY"):
            host, _, port = place.rstrip("/").rpartition(":")
            return socket.create_connection((host, int(port)), timeout_s)
        raise MissingError(
            f"DOCKER_HOST={self.url}: the factory speaks to unix:// and plain tcp://host:port engines",
            hint="unset DOCKER_HOST, or forward the engine's socket with ssh -L",
        )

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Path | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Iterator[Response]:
        target = f"{path}?{urlencode(query)}" if query else path
        size = body.stat().st_size if body else 0
        fields = {"Host": "engine", "Content-Length": str(size), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            with self._connect(timeout_s) as connection, connection.makefile("rb") as answer:
                connection.sendall(f"{method} {target} HTTP/1.0\r\n{head}\r\n".encode())
                if body:
                    with body.open("rb") as file:
                        connection.sendfile(file)
                yield Response(status=_read_status(answer), body=answer)
        except (ConnectionError, FileNotFoundError, PermissionError, TimeoutError) as error:
            raise MissingError(f"no answer from the engine at {self.url}: {error}", hint=_HINT) from error

    def ask(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, timeout_s: float = _TIMEOUT_S
    ) -> Any:
        """The JSON answer to a request, None for "no such thing"."""
        with self.open(method, path, query=query, timeout_s=timeout_s) as response:
            text = response.body.read()
            if response.status == 404:
                return None
            if response.status >= 400:
                raise BuildError(f"the engine refused {method} {path}: {_message(text)}", hint=_HINT)
            return json.loads(text) if text.strip() else {}

    def version(self) -> Mapping[str, Any]:
        answer = self.ask("GET", "/version")
        assert isinstance(answer, dict)
        return answer

    def layers(self) -> dict[str, Image]:
        """Every finished layer in this engine by key: one round trip."""
        images = self._images({"reference": [LAYERS]})
        prefix = f"{LAYERS}:"
        return {
            tag.removeprefix(prefix): image
            for image in images
            for tag in image.tags
            if tag.startswith(prefix)
        }

    def images(self) -> list[Image]:
        """All images, intermediate ones too."""
        return self._images({})

    def labelled(self, label: str) -> list[Image]:
        """All images that carry a label, intermediate ones too (they are hidden unless asked for)."""
        return self._images({"label": [label]})

    def _images(self, filters: Mapping[str, list[str]]) -> list[Image]:
        found = self.ask("GET", "/images/json", query={"all": "1", "filters": json.dumps(filters)})
        return [
            Image(
                id=item["Id"],
                size_bytes=item["Size"],
                tags=tuple(tag for tag in item["RepoTags"] or () if tag != "<none>:<none>"),
                labels=item["Labels"] or {},
                created=item["Created"],
                parent=item.get("ParentId", ""),
            )
            for item in found
        ]

    def inspect_image(self, reference: str) -> dict[str, Any] | None:
        answer = self.ask("GET", f"/images/{quote(reference, safe='/:@')}/json")
        assert answer is None or isinstance(answer, dict)
        return answer

    def tag(self, image: str, repository: str, tag: str) -> None:
        if self.ask("POST", f"/images/{image}/tag", query={"repo": repository, "tag": tag}) is None:
            raise BuildError(f"no image {image} in the engine", hint="build it again")

    def remove_image(self, reference: str) -> None:
        """Removes a tag or an image; what other images still need stays, and that is no error."""
        with self.open("DELETE", f"/images/{quote(reference, safe='/:@')}") as response:
            text = response.body.read()
            if response.status not in (200, 404, 409):
                raise BuildError(f"the engine did not remove {reference}: {_message(text)}", hint=_HINT)

    def containers(self, label: str) -> list[dict[str, Any]]:
        filters = json.dumps({"label": [label]})
        return list(self.ask("GET", "/containers/json", query={"all": "1", "filters": filters}))

    def remove_container(self, container: str) -> None:
        with self.open("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"}) as response:
            text = response.body.read()
            # 409: somebody is removing it already.
            if response.status not in (204, 404, 409):
                raise BuildError(
                    f"the engine did not remove container {container}: {_message(text)}", hint=_HINT
                )

    def import_image(self, tar: Path, *, repository: str, tag: str, changes: Iterable[str]) -> str:
        """Makes an image of one layer from the tar of a root file system."""
        query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", c) for c in changes)]
        headers = {"Content-Type": "application/x-tar"}
        last = self._progress("POST", f"/images/create?{urlencode(query)}", body=tar, headers=headers)
        return str(last.get("status", ""))

    def pull(self, reference: str, *, auth: str = "") -> None:
        """Pulls by tag or digest; raises BuildError with the engine's own words."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        self._progress("POST", f"/images/create?{urlencode({'fromImage': reference})}", headers=headers)

    def _progress(
        self, method: str, path: str, *, headers: Mapping[str, str], body: Path | None = None
    ) -> dict[str, Any]:
        """Reads a stream of progress objects to its end; an error among them is raised."""
        last: dict[str, Any] = {}
        with self.open(method, path, body=body, headers=headers, timeout_s=_LONG_S) as response:
            for line in response.body:
                if line.strip():
                    last = json.loads(line)
                    if "error" in last:
                        message = f"the engine: {last['error']}"
                        if "verification failed" in message:  # of a manifest or a layer, by its digest
                            raise IntegrityError(message, hint="builder lock --verify")
                        raise BuildError(message, hint="builder doctor")
            if response.status >= 400:
                raise BuildError(f"the engine: {last.get('message', response.status)}", hint="builder doctor")
        return last

    @contextmanager
    def export(self, references: Iterable[str]) -> Iterator[IO[bytes]]:
        """The images as one tar stream in the format of `docker save`."""
        query = urlencode([("names", reference) for reference in references])
        with self.open("GET", f"/images/get?{query}", timeout_s=_LONG_S) as response:
            if response.status >= 400:
                raise BuildError(f"the engine did not export: {_message(response.body.read())}", hint=_HINT)
            yield response.body


def _read_status(answer: IO[bytes]) -> int:
    """The status of an answer; leaves `answer` at the beginning of its body."""
    words = answer.readline().split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ConnectionError("it hung up before it answered")
    while answer.readline().strip():
        pass
    return int(words[1])


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace").strip()
