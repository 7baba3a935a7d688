"""The registry of this machine: a detached `docker-registry` that is found again, and no other process."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.host.workspace import Workspace
from builder.adapters.registry import local
from builder.adapters.registry.client import Registry
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


def answers(host: str) -> bool:
    with Registry(host) as client:
        client.ping()
    return True


@needs_program
def test_it_is_found_again_at_the_same_port(registry: DockerRegistry) -> None:
    assert (registry.find(), registry.stop()) == ("", False)
    host = registry.start()
    assert answers(host)
    assert registry.start() == registry.find() == host
    assert registry.stop()
    assert registry.find() == ""
    assert registry.start() == host


@needs_program
def test_a_port_that_is_taken_meanwhile_is_left_alone(registry: DockerRegistry) -> None:
    host = registry.start()
    registry.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(host.rpartition(":")[2])))
        other.listen()
        moved = registry.start()
    assert moved != host
    assert answers(moved)


@needs_program
def test_the_environment_changes_nothing(registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_HTTP_ADDR", "127.0.0.1:1")
    assert answers(registry.start())


@needs_program
def test_one_whose_starter_was_killed_is_replaced(registry: DockerRegistry) -> None:
    registry.start()
    first = state_of(registry)["pid"]
    (registry.folder / "state.json").write_text(json.dumps({"pid": first, "port": 0}))
    assert registry.find() == ""
    assert answers(registry.start())
    assert state_of(registry)["pid"] != first
    assert not Path(f"/proc/{first}/cmdline").exists() or not Path(f"/proc/{first}/cmdline").read_bytes()


def test_a_process_with_a_reused_id_is_not_taken_for_it(registry: DockerRegistry) -> None:
    registry.folder.mkdir()
    (registry.folder / "state.json").write_text(json.dumps({"pid": os.getpid(), "port": 5000}))
    assert registry.find() == ""
    assert registry.stop() is False, "and this process was not ended"


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"pid": 1}', '{"host": "127.0.0.1:1", "pid": 1}'])
def test_a_damaged_state_means_that_it_does_not_run(registry: DockerRegistry, state: str) -> None:
    registry.folder.mkdir()
    (registry.folder / "state.json").write_text(state)
    assert registry.find() == ""


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="no program 'docker-registry' here") as caught:
        registry.start()
    assert caught.value.exit_code == 3
    assert caught.value.hint.startswith("apt-get install docker-registry, or: make tools")


def test_a_program_that_ends_at_once_is_reported_with_its_log(
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
def test_all_checkouts_of_a_user_share_one(tmp_path: Path) -> None:
    first, second = (Workspace(home=tmp_path / "home", out=tmp_path / name) for name in "ab")
    try:
        host = local.ensure_up(first)
        assert local.find(second) == local.ensure_up(second) == host
    finally:
        assert local.stop(second)
    assert local.find(first) == ""
    assert local.stop(first) is False
