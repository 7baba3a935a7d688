"""The local registry: start, find and stop a detached `docker-registry`, but never another process."""

import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.host.workspace import Workspace
from builder.adapters.registry import local, password
from builder.adapters.registry.api import Credentials
from builder.adapters.registry.client import Blob, Registry
from builder.adapters.registry.local import PROGRAM, DockerRegistry
from builder.errors import MissingError

needs_program = pytest.mark.skipif(
    not shutil.which(PROGRAM),
    reason="capability absent: no docker-registry program (Debian: apt install docker-registry)",
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    found = DockerRegistry(tmp_path / "registry")
    yield found
    found.stop()


def state_of(registry: DockerRegistry) -> dict[str, int]:
    state = json.loads((registry.folder / "state.json").read_text())
    assert isinstance(state, dict)
    return state


def answers(registry: DockerRegistry) -> bool:
    with Registry(registry.find(), credentials=registry.credentials) as client:
        client.ping()
    return True


@needs_program
def test_finds_a_running_registry_and_restarts_it_at_the_same_port(registry: DockerRegistry) -> None:
    assert (registry.find(), registry.stop()) == ("", False)
    host = registry.start()
    assert answers(registry)
    assert registry.start() == registry.find() == host
    assert registry.stop()
    assert registry.find() == ""
    assert registry.start() == host


@needs_program
def test_starts_at_another_port_if_the_last_one_is_taken(registry: DockerRegistry) -> None:
    host = registry.start()
    registry.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(host.rpartition(":")[2])))
        other.listen()
        moved = registry.start()
    assert moved != host
    assert answers(registry)


@needs_program
def test_ignores_registry_variables_of_the_environment(
    registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_HTTP_ADDR", "127.0.0.1:1")
    registry.start()
    assert answers(registry)


@needs_program
def test_replaces_a_registry_whose_starter_was_killed(registry: DockerRegistry) -> None:
    registry.start()
    first = state_of(registry)["pid"]
    (registry.folder / "state.json").write_text(json.dumps({"pid": first, "port": 0}))
    assert registry.find() == ""
    registry.start()
    assert answers(registry)
    assert state_of(registry)["pid"] != first
    assert not Path(f"/proc/{first}/cmdline").exists() or not Path(f"/proc/{first}/cmdline").read_bytes()


@needs_program
@pytest.mark.parametrize("login", [None, Credentials(username="builder", password="")], ids=["no", "wrong"])
def test_refuses_every_request_without_a_login(registry: DockerRegistry, login: Credentials | None) -> None:
    with Registry(registry.start(), credentials=login) as stranger:
        for ask in (
            stranger.ping,
            lambda: stranger.tags("app"),
            lambda: stranger.push_blobs("app", [Blob.of(b"{}")]),
            lambda: stranger.put_manifest("app", "debian-12", b"{}"),
        ):
            with pytest.raises(MissingError, match="answered 401"):
                ask()


@needs_program
def test_registry_login_is_random_and_readable_by_user_only(registry: DockerRegistry, tmp_path: Path) -> None:
    registry.start()
    other = DockerRegistry(tmp_path / "other")
    other.folder.mkdir()
    password.ensure(other.folder)
    assert registry.credentials.password != other.credentials.password
    assert len(registry.credentials.password) >= 32
    for name in ("password", "htpasswd"):
        assert stat.S_IMODE((registry.folder / name).stat().st_mode) == 0o600
    secret = registry.credentials.password
    registry.stop()
    registry.start()
    assert registry.credentials.password == secret, "a login that the engine's client stored stays valid"
    assert secret.encode() not in Path(f"/proc/{state_of(registry)['pid']}/cmdline").read_bytes()
    assert secret not in (registry.folder / "log.txt").read_text()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"\n"])
def test_a_damaged_password_is_replaced_at_the_next_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(MissingError, match="has no password"):
        password.read(tmp_path)
    password.ensure(tmp_path)
    assert len(password.read(tmp_path).password) >= 32


@needs_program
def test_replaces_a_registry_without_login_of_an_earlier_version(registry: DockerRegistry) -> None:
    registry.start()
    first = state_of(registry)["pid"]
    config = registry.folder / "config.yml"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "auth"}))
    registry.start()
    assert state_of(registry)["pid"] != first
    assert answers(registry)


def test_ignores_another_process_with_a_reused_process_id(registry: DockerRegistry) -> None:
    registry.folder.mkdir()
    (registry.folder / "state.json").write_text(json.dumps({"pid": os.getpid(), "port": 5000}))
    assert registry.find() == ""
    assert registry.stop() is False, "stop() must not end this test process"


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"pid": 1}', '{"host": "127.0.0.1:1", "pid": 1}'])
def test_treats_a_damaged_state_file_as_not_running(registry: DockerRegistry, state: str) -> None:
    registry.folder.mkdir()
    (registry.folder / "state.json").write_text(state)
    assert registry.find() == ""


def test_finds_a_running_registry_whose_state_file_is_damaged(registry: DockerRegistry) -> None:
    host = registry.start()
    (registry.folder / "state.json").write_text("{")
    assert registry.find() == host
    assert registry.stop()


def test_names_the_package_of_a_missing_program(
    tmp_path: Path, registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="program 'docker-registry' not found") as caught:
        registry.start()
    assert caught.value.exit_code == 3
    assert caught.value.hint.startswith("apt-get install docker-registry, or: make tools")


def test_failed_start_hints_at_the_log(
    tmp_path: Path, registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / PROGRAM
    program.write_text("#!/bin/sh\necho broken\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(MissingError, match="did not start") as caught:
        registry.start()
    log = Path(caught.value.hint.removeprefix("see "))
    assert log.read_text() == "broken\n"
    assert registry.find() == ""


@needs_program
def test_all_checkouts_of_a_user_share_a_registry(tmp_path: Path) -> None:
    first, second = (Workspace(home=tmp_path / "home", out=tmp_path / name) for name in "ab")
    try:
        host = local.ensure_up(first)
        assert local.of(second).find() == local.ensure_up(second) == host
    finally:
        assert local.stop(second)
    assert local.of(first).find() == ""
    assert local.stop(first) is False
