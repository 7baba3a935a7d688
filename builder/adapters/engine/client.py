"""Client of a Docker engine for images and containers; raises the engine's errors as FactoryErrors.

Requests go through docker-py, which is imported at the first request. If the engine has a Unix socket, images
are listed and tagged without it (see `lookup`). Containers are identified by their ids.
"""

import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from builder.adapters.engine.lookup import HINT, list_images, tag_image
from builder.errors import BuildError, FactoryError, IntegrityError, MissingError
from builder.events import OnBytes, ignore_bytes
from builder.lines import pass_lines
from builder.values import dataclass

if TYPE_CHECKING:
    from docker import APIClient

    from builder.adapters.engine.storage import Storage

LAYERS = "factory-layers"  # repository of all layers in the engine; the tag is the key
LEFTOVERS = "factory-leftovers"  # repository of images that are left for `builder clean`
_BUILT = "factory-built"  # prefix of repositories that have the layers of one checkout
_DEFAULT_URL = "unix:///var/run/docker.sock"
UNIX = "unix://"
_CHUNK = 1 << 20
_CONTAINERD = "io.containerd.snapshotter"  # name of the engine's driver with the containerd image store
_INVALID_NAME = "invalid reference format"  # in the engine's answer
LONGEST_S = 4 * 3600.0  # limit of a program in a container
_ASK_S, _WORK_S = 60, 1800  # read timeouts of queries and of long operations


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image of the engine, with the fields that the builder uses."""

    id: str
    size_bytes: int
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    created: int
    parent: str = ""  # id of the parent image; empty with the containerd image store


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind:
    """Bind mount of a host folder or file in a container."""

    source: str
    target: str
    writable: bool = False


def built_by(checkout: str) -> str:
    """Return the repository name for layers that a checkout made or pulled; the tag is the layer key.

    The name shows which layers `builder clean` may remove if several checkouts share an engine.
    """
    return f"{_BUILT}-{checkout}"


_loading = threading.Lock()


def load_sdk() -> None:
    """Import all modules of docker-py in one thread.

    These modules import each other, so imports in several threads can get a partly loaded module.
    """
    with _loading:
        for module in ("urllib3.exceptions", "requests.exceptions", "docker.errors", "docker.types"):
            import_module(module)


class Engine:
    """Client of the engine at a URL, by default DOCKER_HOST; thread-safe.

    DOCKER_TLS_VERIFY and DOCKER_CERT_PATH apply to engines at a network address, as for the docker command.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or _DEFAULT_URL
        self._clients: dict[int, APIClient] = {}
        self._connecting = threading.Lock()

    def connect(self, timeout_s: int = _WORK_S) -> "APIClient":
        """Return the SDK's client; the first call imports the SDK, which is slow."""
        with self._connecting:
            if timeout_s not in self._clients:
                self._clients[timeout_s] = self._open(timeout_s)
            return self._clients[timeout_s]

    def _open(self, timeout_s: int) -> "APIClient":
        load_sdk()
        from docker import APIClient
        from docker.constants import MINIMUM_DOCKER_API_VERSION
        from docker.utils import kwargs_from_env

        with self.errors("connecting"):
            if self.url.startswith(UNIX):  # DOCKER_TLS_VERIFY does not apply
                return APIClient(base_url=self.url, timeout=timeout_s)
            address = kwargs_from_env(environment={**os.environ, "DOCKER_HOST": self.url})
            # Unless trust_env is False, REQUESTS_CA_BUNDLE overrides the CA in DOCKER_CERT_PATH. A client
            # that detects the API version itself sends a request before trust_env can be set.
            first = APIClient(version=MINIMUM_DOCKER_API_VERSION, timeout=timeout_s, **address)
            first.trust_env = False
            version = first.version(api_version=False)["ApiVersion"]
            client = APIClient(version=version, timeout=timeout_s, **address)
            client.trust_env = False
            return client

    @contextmanager
    def errors(self, action: str) -> Iterator[None]:
        """Re-raise errors of the SDK and its HTTP transport as FactoryErrors."""
        load_sdk()
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except APIError as error:
            message = str(error.explanation or error)
            if "no space left" in message.lower():
                raise BuildError(
                    f"the disk of the engine is full ({action})",
                    hint="free some space (builder clean, docker system df), then build again",
                    details=message,
                ) from error
            if "integrity checksum failed" in message:  # when the engine exports a layer
                raise IntegrityError(
                    f"the engine's storage is damaged ({action})",
                    hint="delete the layers, then build again: builder clean --all --yes",
                    details=message,
                ) from error
            raise BuildError(
                f"engine error while {action}", hint="builder doctor", details=message
            ) from error
        except (AttributeError, RecursionError, TypeError) as error:
            if action != "connecting":
                raise
            raise MissingError(
                f"the settings of Docker's client cannot be read: {error}",
                hint="correct config.json in DOCKER_CONFIG or ~/.docker, then try: docker info",
            ) from error
        except (DockerException, RequestException, HTTPError) as error:
            causes = list(_causes(error))
            if any(isinstance(cause, (RequestException, HTTPError)) for cause in causes):
                raise MissingError(
                    f"no answer from the engine at {self.url} ({action}): {causes[-1]}", hint=HINT
                ) from error
            raise MissingError(
                f"DOCKER_HOST={self.url}: {error}",
                hint="set DOCKER_HOST to unix://PATH or tcp://HOST:PORT, or forward the engine's socket with"
                " ssh -L;"
                " DOCKER_CERT_PATH is the folder of ca.pem, cert.pem and key.pem",
            ) from error

    def version(self) -> Mapping[str, Any]:
        with self.errors("reading the engine's version"):
            return self.connect(_ASK_S).version()

    def info(self) -> Mapping[str, Any]:
        with self.errors("reading the engine's settings"):
            return self.connect(_ASK_S).info()

    # Images.

    def layers(self, *tags: str) -> dict[str, Image]:
        """Return all finished layers in this engine by key, with one request.

        The tags of an image are those in the repository of layers and those of `tags`.
        """
        prefix = f"{LAYERS}:"
        return {
            tag.removeprefix(prefix): image
            for image in self._list({"reference": [LAYERS, *tags]})
            for tag in image.tags
            if tag.startswith(prefix)
        }

    def images(self, **filters: str) -> list[Image]:
        """Return the images that match the filters, including intermediate images."""
        return self._list({name: [value] for name, value in filters.items()})

    def _list(self, wanted: Mapping[str, Sequence[str]]) -> list[Image]:
        if self.url.startswith(UNIX) and not self._clients:
            found = list_images(Path(self.url.removeprefix(UNIX)), wanted)
        else:
            with self.errors("listing images"):
                found = self.connect(_ASK_S).images(all=True, filters=wanted)
        return [
            Image(
                id=record["Id"],
                size_bytes=record["Size"],
                tags=tuple(tag for tag in record["RepoTags"] or () if tag != "<none>:<none>"),
                labels=record["Labels"] or {},
                created=record["Created"],
                parent=record.get("ParentId", ""),
            )
            for record in found
        ]

    def labelled(self, label: str) -> list[Image]:
        """Return the images with a label, including intermediate images."""
        return self.images(label=label)

    def inspect_image(self, reference: str) -> dict[str, Any] | None:
        """Return the engine's record of an image; None if the image does not exist or has no valid name."""
        load_sdk()
        from docker.errors import NotFound

        try:
            with self.errors(f"inspecting {reference}"), suppress(NotFound):
                found: dict[str, Any] = self.connect(_ASK_S).inspect_image(reference)  # type: ignore[no-untyped-call]
                return found
        except BuildError as error:
            if _INVALID_NAME not in error.details:
                raise
        return None

    def tag(self, image: str, repository: str, tag: str) -> None:
        if self.url.startswith(UNIX) and not self._clients:
            tag_image(Path(self.url.removeprefix(UNIX)), image, repository, tag)
            return
        with self.errors(f"tagging {image}"):
            self.connect(_ASK_S).tag(image, repository, tag)

    def remove_image(self, reference: str) -> None:
        """Remove a tag or an image; keep an image that other images or containers use."""
        with self.errors(f"removing {reference}"), _tolerating(404, 409):
            self.connect(_ASK_S).remove_image(reference)

    def import_image(
        self, tar: Path, *, repository: str | None = None, tag: str | None = None, changes: Iterable[str]
    ) -> str:
        """Create an image with a single layer from the tar of a root file system; return its id."""
        with self.errors(f"importing {tar.name}"):
            text = self.connect().import_image(
                str(tar), repository=repository, tag=tag, changes=list(changes)
            )
        events = [json.loads(line) for line in text.splitlines() if line.strip()]
        _read_progress(events)
        return str(events[-1].get("status", ""))

    @cached_property
    def takes_configurations(self) -> bool:
        """True if the engine loads an image whose archive lacks layers that the engine has.

        An engine with the containerd image store does not, so its images keep the engine's configuration.
        """
        return not any(_CONTAINERD in str(row) for row in self.info().get("DriverStatus") or ())

    @cached_property
    def storage(self) -> "Storage | None":
        """The engine's storage if its layers can be read without an export; else None.

        A socket may lead to an engine of another machine; then the storage lacks the layers.
        """
        from builder.adapters.engine.storage import DRIVER, Storage

        found = self.info() if self.url.startswith(UNIX) else {}
        return Storage(Path(found["DockerRootDir"])) if found.get("Driver") == DRIVER else None

    def load(self, archive: IO[bytes]) -> None:
        """Create the images of an archive in the format of `docker save`."""
        with self.errors("loading an image"):
            _read_progress(self.connect().load_image(archive))  # type: ignore[no-untyped-call]

    def pull(
        self,
        reference: str,
        *,
        login: Mapping[str, str] | None = None,
        on_bytes: OnBytes = ignore_bytes,
    ) -> None:
        """Pull an image by tag or digest; raise BuildError with the engine's message if that fails."""
        with self.errors(f"pulling {reference}"):
            events = self.connect().pull(reference, stream=True, decode=True, auth_config=dict(login or {}))
            _read_progress(events, on_bytes)

    @contextmanager
    def export(self, image: str) -> Iterator[IO[bytes]]:
        """Yield an image as a tar stream in the format of `docker save`."""
        with self.errors(f"exporting {image}"):
            chunks = self.connect().get_image(image, chunk_size=_CHUNK)
            with io.BufferedReader(_Chunks(chunks), _CHUNK) as stream:
                yield stream

    @contextmanager
    def files(self, container: str) -> Iterator[IO[bytes]]:
        """Yield the root file system of a container as a tar stream."""
        with self.errors(f"exporting container {container}"):
            chunks = self.connect().export(container, chunk_size=_CHUNK)
            with io.BufferedReader(_Chunks(chunks), _CHUNK) as stream:
                yield stream

    def build(self, context: IO[bytes], **options: Any) -> Iterator[dict[str, Any]]:
        """Build a Dockerfile from the tar of its context; yield the engine's events."""
        with self.errors("building an image"):
            yield from self.connect().build(
                fileobj=context,
                custom_context=True,
                nocache=True,
                decode=True,
                **options,
            )

    # Containers.

    def containers(self, label: str) -> list[dict[str, Any]]:
        """Return the engine's records of containers with a label, running or not."""
        with self.errors("listing containers"):
            return list(self.connect(_ASK_S).containers(all=True, filters={"label": [label]}))

    def inspect_container(self, container: str) -> dict[str, Any] | None:
        """Return the engine's record of a container; None if the container does not exist."""
        load_sdk()
        from docker.errors import NotFound

        with self.errors(f"inspecting container {container}"), suppress(NotFound):
            found: dict[str, Any] = self.connect(_ASK_S).inspect_container(container)
            return found
        return None

    def create(
        self,
        image: str,
        *,
        command: Sequence[str],
        network: str,
        labels: Mapping[str, str],
        mounts: Sequence[Bind] = (),
        tmpfs: Mapping[str, str] | None = None,
        ports: Mapping[int | str, Any] | None = None,
        name: str | None = None,
        hostname: str | None = None,
        user: str = "0",
        environment: Mapping[str, str] | None = None,
        stop_signal: str | None = None,
        **host: Any,
    ) -> str:
        """Create a container, which the caller starts and removes; `host` has options of its host config."""
        load_sdk()
        from docker.types import Mount

        with self.errors("creating a container"):
            client = self.connect()
            created = client.create_container(
                image,
                list(command),
                entrypoint=[],
                user=user,
                labels=dict(labels),
                ports=[tuple(str(port).split("/")) for port in ports or ()],
                name=name,
                hostname=hostname,
                environment=dict(environment or {}),
                stop_signal=stop_signal,
                host_config=client.create_host_config(
                    network_mode=network,
                    port_bindings=dict(ports or {}),
                    tmpfs=dict(tmpfs or {}),
                    mounts=[
                        Mount(bind.target, bind.source, type="bind", read_only=not bind.writable)
                        for bind in mounts
                    ],
                    **host,
                ),
            )
        return str(created["Id"])

    def start(self, container: str) -> None:
        with self.errors("starting a container"):
            self.connect().start(container)

    def limit_processes(self, container: str, count: int) -> None:
        """Limit the number of processes of a container; ignore a container that has ended."""
        with self.errors("limiting the processes of a container"):
            client = self.connect(_ASK_S)
            url = f"{client.base_url}/v{client.api_version}/containers/{container}/update"
            status = client.post(url, json={"PidsLimit": count}).status_code
        if status != 200 and ((self.inspect_container(container) or {}).get("State") or {}).get("Running"):
            raise BuildError(
                f"container {container}: the engine refused a limit of {count} processes (status {status})",
                hint="see the warnings at the end of: docker info",
            )

    def stop(self, container: str, *, grace_s: int) -> None:
        with self.errors("stopping a container"):
            self.connect().stop(container, timeout=grace_s)

    def run_to_end(
        self,
        container: str,
        on_line: Callable[[str], None],
        *,
        timeout_s: float = LONGEST_S,
        silence_s: int = _WORK_S,
    ) -> int:
        """Start a container, pass its output to `on_line` line by line, and return its exit code.

        Raises MissingError if the container prints nothing for `silence_s`.
        """
        with self._ended_after(container, timeout_s), self.errors("running a container"):
            client = self.connect(silence_s)
            client.start(container)
            pass_lines(client.logs(container, stream=True, follow=True), on_line)
            return int(client.wait(container)["StatusCode"])

    def execute(
        self,
        container: str,
        command: Sequence[str],
        on_line: Callable[[str], None],
        *,
        timeout_s: float = LONGEST_S,
        user: str = "",
        folder: str | None = None,
    ) -> int:
        """Run a program in a running container, pass its output lines to `on_line`, return its exit code.

        The defaults of `user` and the working directory `folder` are those of the container.
        """
        with self._ended_after(container, timeout_s), self.errors("running a program in a container"):
            client = self.connect()
            started = client.exec_create(container, list(command), user=user, workdir=folder)["Id"]
            pass_lines(client.exec_start(started, stream=True), on_line)
            return int(client.exec_inspect(started)["ExitCode"])

    @contextmanager
    def _ended_after(self, container: str, timeout_s: float) -> Iterator[None]:
        """Kill the container and raise BuildError if the block takes longer than `timeout_s`."""
        expired = threading.Event()

        def end() -> None:
            expired.set()
            with suppress(FactoryError), self.errors("ending a container"), _tolerating(404, 409):
                self.connect(_ASK_S).kill(container)

        timer = threading.Timer(timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except FactoryError as error:
            if expired.is_set():
                raise _too_slow(timeout_s) from error
            raise
        finally:
            timer.cancel()
        if expired.is_set():
            raise _too_slow(timeout_s)

    def execute_detached(self, container: str, command: Sequence[str]) -> None:
        """Start a program in a running container without waiting for it."""
        with self.errors("starting a program in a container"):
            client = self.connect()
            client.exec_start(client.exec_create(container, list(command))["Id"], detach=True)

    def output(self, container: str, *, lines: int) -> str:
        """Return the last lines that a container printed."""
        with self.errors("reading the output of a container"):
            return self.connect().logs(container, tail=lines).decode(errors="replace")

    def put(self, container: str, folder: str, tar: bytes) -> None:
        """Unpack a tar into a folder of a container."""
        with self.errors("copying files into a container"):
            self.connect().put_archive(container, folder, tar)

    def read_file(self, container: str, path: str) -> bytes:
        """Return the content of a file in a container; empty if the file does not exist."""
        load_sdk()
        import tarfile

        from docker.errors import NotFound

        with self.errors(f"reading {path} of a container"), suppress(NotFound):
            stream, _ = self.connect().get_archive(container, path)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                member = tar.next()
                file = tar.extractfile(member) if member else None
                return file.read() if file else b""
        return b""

    def commit(
        self,
        container: str,
        *,
        repository: str | None = None,
        tag: str | None = None,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        parent_config: Mapping[str, Any] | None = None,
    ) -> str:
        """Store a container as an image and return its id.

        With `parent_config` the image keeps the entrypoint, command, user and environment of its parent, and
        gets labels and further variables.
        """
        more: dict[str, Any] = {}
        if parent_config is not None:
            more["changes"] = [
                f"ENTRYPOINT {json.dumps(parent_config.get('Entrypoint') or [])}",
                f"CMD {json.dumps(parent_config.get('Cmd') or [])}",
                f"USER {parent_config.get('User') or '0'}",
                *(f'LABEL "{key}"="{value}"' for key, value in (labels or {}).items()),
                *(f'ENV {name}="{value}"' for name, value in (environment or {}).items()),
            ]
            # Without an explicit configuration, the engine stores the container's configuration, including
            # its host name.
            more["conf"] = {**parent_config, "Hostname": "", "Domainname": "", "Image": ""}
        with self.errors("storing a container as an image"):
            return str(self.connect().commit(container, repository=repository, tag=tag, **more)["Id"])

    def remove_container(self, container: str) -> None:
        """Remove a container, running or not, with its volumes."""
        # Status 409: another client is already removing the container.
        with self.errors(f"removing container {container}"), _tolerating(404, 409):
            self.connect(_ASK_S).remove_container(container, force=True, v=True)


def _too_slow(timeout_s: float) -> BuildError:
    return BuildError(
        f"timed out after {timeout_s:.0f} s: a program in a container did not end",
        hint="see the last task in the run's log; if it was a download, check the mirror: builder doctor",
    )


@contextmanager
def _tolerating(*statuses: int) -> Iterator[None]:
    load_sdk()
    from docker.errors import APIError

    try:
        yield
    except APIError as error:
        if error.status_code not in statuses:
            raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _read_progress(events: Iterable[Mapping[str, Any]], on_bytes: OnBytes = ignore_bytes) -> None:
    """Read all progress events of an import or a pull; raise an error if an event reports one."""
    layers: dict[str, tuple[int, int]] = {}  # downloaded bytes and all bytes of each layer
    for event in events:
        detail = event.get("progressDetail") or {}
        if event.get("status") == "Downloading" and detail.get("total"):
            layers[event["id"]] = (detail["current"], detail["total"])
            on_bytes(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))
        if "error" in event:
            message = f"the engine: {event['error']}"
            if "verification failed" in message:  # a manifest or layer does not match its digest
                raise IntegrityError(message, hint="builder lock --verify")
            raise BuildError(message, hint="builder doctor")


class _Chunks(io.RawIOBase):
    """File object that reads from an iterator of byte strings."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
