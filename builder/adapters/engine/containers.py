"""Containers of the engine through its SDK, which is loaded only when a container really starts."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError, MissingError

if TYPE_CHECKING:
    from docker.models.containers import Container


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind:
    """A host folder or file inside a container."""

    source: str
    target: str
    writable: bool = False


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turns what the SDK and its transport raise into the factory's errors."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        said = str(getattr(error, "explanation", "") or error)
        if "no space left" in said.lower():
            raise BuildError(
                f"the disk of the engine is full ({doing})",
                hint="make room (builder clean, docker system df), then build again",
                details=said,
            ) from error
        if isinstance(error, RequestException):
            raise MissingError(
                f"the engine went away ({doing})", hint="start it, then build again", details=said
            ) from error
        raise BuildError(f"the engine refused: {doing}", hint="builder doctor", details=said) from error


def load() -> None:
    """Loads the SDK, for whoever will need it soon."""
    import docker  # noqa: F401


def client(url: str) -> Any:
    import docker

    with engine_errors("connecting"):
        return docker.DockerClient(base_url=url, timeout=600)


def create(
    url: str,
    image: str,
    *,
    command: Sequence[str],
    network: str,
    labels: Mapping[str, str],
    mounts: Sequence[Bind] = (),
    tmpfs: Mapping[str, str] | None = None,
    **more: Any,
) -> "Container":
    """A container that is not started yet; the caller owns and removes it."""
    import docker

    with engine_errors("creating a container"):
        created: Container = client(url).containers.create(
            image,
            list(command),
            entrypoint=[],
            user="0",
            network_mode=network,
            labels=dict(labels),
            tmpfs=dict(tmpfs or {}),
            mounts=[
                docker.types.Mount(bind.target, bind.source, type="bind", read_only=not bind.writable)
                for bind in mounts
            ],
            **more,
        )
    return created


def run_to_end(container: "Container", on_line: Callable[[str], None]) -> int:
    """Starts a container, hands on its output line by line, returns its exit code."""
    with engine_errors("running a container"):
        container.start()
        _hand_on(container.logs(stream=True, follow=True), on_line)
        return int(container.wait()["StatusCode"])


def execute(container: "Container", command: Sequence[str], on_line: Callable[[str], None]) -> int:
    """Runs a program in a running container, hands on its output line by line, returns its exit code."""
    assert container.client
    api = container.client.api
    with engine_errors("running a program in a container"):
        started = api.exec_create(container.id, list(command))["Id"]
        _hand_on(api.exec_start(started, stream=True), on_line)
        return int(api.exec_inspect(started)["ExitCode"])


def _hand_on(chunks: Iterable[bytes], on_line: Callable[[str], None]) -> None:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            on_line(line.decode(errors="replace").rstrip("\r"))
    if rest:
        on_line(rest.decode(errors="replace"))


def remove(container: "Container") -> None:
    with engine_errors("removing a container"):
        container.remove(force=True, v=True)


def commit(
    container: "Container",
    *,
    repository: str,
    tag: str,
    labels: Mapping[str, str],
    parent_config: Mapping[str, Any],
) -> None:
    """Stores the container as an image that starts as its parent did."""
    changes = [
        f"ENTRYPOINT {json.dumps(parent_config.get('Entrypoint') or [])}",
        f"CMD {json.dumps(parent_config.get('Cmd') or [])}",
        f"USER {parent_config.get('User') or '0'}",
        *(f'LABEL "{key}"="{value}"' for key, value in labels.items()),
    ]
    # Without a configuration of ours the engine takes the container's, host name included.
    conf = {**parent_config, "Hostname": "", "Domainname": "", "Image": ""}
    with engine_errors("storing a layer"):
        container.commit(repository=repository, tag=tag, changes=changes, conf=conf)
