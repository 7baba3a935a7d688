"""The container engine over its plain socket, with the standard library alone.

Look-ups, removal and streams of whole images live here, so that a build with nothing to do
never loads the engine's SDK; the SDK serves where containers really start (`layers`, `testinfra`).
"""

import http.client
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from builder.errors import BuildError, MissingError

LAYERS = "factory-layers"  # repository of all layers in the engine; the tag is the key
RUN_LABEL = "factory.run"
KEY_LABEL = "factory.key"
TARGET_LABEL = "factory.target"
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


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """Requests to one engine; every call is a connection of its own, so threads may share an Engine."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self.calls = 0

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        match = re.fullmatch(r"(unix|tcp|http)://(.+)", self.url)
        if match and match[1] == "unix":
            return _UnixConnection(match[2], timeout_s)
        if match and not os.environ.get("DOCKER_TLS_VERIFY"):
            return http.client.HTTPConnection(match[2], timeout=timeout_s)
        raise MissingError(
            f"DOCKER_HOST={self.url}: the factory speaks to unix:// and plain tcp:// engines",
            hint="unset DOCKER_HOST, or forward the engine's socket with ssh -L",
        )

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: IO[bytes] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        self.calls += 1
        connection = self._connect(timeout_s)
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.request(method, target, body=body, headers=dict(headers or {}))
            yield connection.getresponse()
        except (ConnectionError, FileNotFoundError, PermissionError, TimeoutError) as error:
            raise MissingError(f"no answer from the engine at {self.url}: {error}", hint=_HINT) from error
        except http.client.HTTPException as error:
            raise MissingError(f"the engine at {self.url} broke off: {error!r}", hint=_HINT) from error
        finally:
            connection.close()

    def ask(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, timeout_s: float = _TIMEOUT_S
    ) -> Any:
        """The JSON answer to a request, None for "no such thing"."""
        with self.open(method, path, query=query, timeout_s=timeout_s) as response:
            text = response.read()
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
            text = response.read()
            if response.status not in (200, 404, 409):
                raise BuildError(f"the engine did not remove {reference}: {_message(text)}", hint=_HINT)

    def containers(self, label: str) -> list[dict[str, Any]]:
        filters = json.dumps({"label": [label]})
        return list(self.ask("GET", "/containers/json", query={"all": "1", "filters": filters}))

    def remove_container(self, container: str) -> None:
        with self.open("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"}) as response:
            text = response.read()
            # 409: somebody is removing it already.
            if response.status not in (204, 404, 409):
                raise BuildError(
                    f"the engine did not remove container {container}: {_message(text)}", hint=_HINT
                )

    def import_image(self, tar: Path, *, repository: str, tag: str, changes: Iterable[str]) -> str:
        """Makes an image of one layer from the tar of a root file system."""
        query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", c) for c in changes)]
        path = f"/images/create?{urlencode(query)}"
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(tar.stat().st_size)}
        with tar.open("rb") as body:
            last = self._progress("POST", path, body=body, headers=headers)
        return str(last.get("status", ""))

    def pull(self, reference: str, *, auth: str = "") -> None:
        """Pulls by tag or digest; raises BuildError with the engine's own words."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        self._progress("POST", f"/images/create?{urlencode({'fromImage': reference})}", headers=headers)

    def _progress(
        self, method: str, path: str, *, headers: Mapping[str, str], body: IO[bytes] | None = None
    ) -> dict[str, Any]:
        """Reads a stream of progress objects to its end; an error among them is raised."""
        last: dict[str, Any] = {}
        with self.open(method, path, body=body, headers=headers, timeout_s=_LONG_S) as response:
            for line in response:
                if line.strip():
                    last = json.loads(line)
                    if "error" in last:
                        raise BuildError(f"the engine: {last['error']}", hint="builder doctor")
            if response.status >= 400:
                raise BuildError(f"the engine: {last.get('message', response.reason)}", hint="builder doctor")
        return last

    @contextmanager
    def export(self, references: Iterable[str]) -> Iterator[http.client.HTTPResponse]:
        """The images as one tar stream in the format of `docker save`."""
        query = urlencode([("names", reference) for reference in references])
        with self.open("GET", f"/images/get?{query}", timeout_s=_LONG_S) as response:
            if response.status >= 400:
                raise BuildError(f"the engine did not export: {_message(response.read())}", hint=_HINT)
            yield response


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace").strip()
