"""doctor, clean, check and registry on a real machine."""

import shutil
import signal

import pytest

from builder.wait import until
from tests.support.factory import Factory

pytestmark = [pytest.mark.engine, pytest.mark.e2e]


def test_doctor_finds_a_machine_that_can_build(factory: Factory) -> None:
    done = factory.call("doctor")
    assert done.code == 0, done.stdout
    for about in ("engine", "catalog", "mmdebstrap", "cache disk", "registry", "credentials"):
        assert about in done.stdout


def test_doctor_tells_every_finding_at_once_each_with_a_fix(factory: Factory) -> None:
    factory.repository.write("catalog/systems/broken.toml", "what\n")
    done = factory.call("doctor", DOCKER_HOST="unix:///nowhere.sock", PATH="/nowhere")
    assert done.code == 3
    for word in (
        "no answer from the engine",
        "systems/broken.toml",
        "mmdebstrap",
        "fix: apt-get install docker.io",
    ):
        assert word in done.stdout


def test_clean_shows_what_a_killed_run_left_and_removes_it_when_told(factory: Factory) -> None:
    assert factory.signalled(signal.SIGKILL, ("step.task", "hello/system")) == -signal.SIGKILL
    shown = factory.call("clean")
    assert shown.code == 0
    assert "its process is gone" in shown.stdout
    assert "builder clean --yes" in shown.stderr
    assert factory.scratch() != []
    assert factory.call("clean", "--yes").code == 0
    assert factory.scratch() == []
    assert factory.containers() == []


def test_clean_keeps_what_the_catalog_needs(factory: Factory) -> None:
    assert factory.build().code == 0
    needed = set(factory.repository.keys().values())
    old = factory.repository.keys()["workload"]
    factory.repository.replace("containers/hello/src/hello.py", "hello", "good day")
    assert factory.build().code == 0
    listed = factory.call("clean").stdout
    assert f"layer {old[:12]}" in listed
    assert not [key for key in needed - {old} if f"layer {key[:12]}" in listed]


def test_check_refuses_an_image_that_is_not_there(factory: Factory) -> None:
    done = factory.call("check", "nowhere:1", "--target", "hello")
    assert done.code == 2
    assert "no image 'nowhere:1' in the engine" in done.stderr


def test_the_local_registry_comes_back_where_it_was(
    factory: Factory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("own-home")
    own = {"BUILDER_HOME": str(home)}
    try:
        first = factory.call("registry", "up", **own)
        assert first.code == 0, first.stderr
        assert factory.call("registry", "up", **own).stdout == first.stdout
        assert factory.call("registry", "status", **own).stdout == first.stdout
        assert factory.call("registry", "down", **own).code == 0
        assert factory.call("registry", "status", **own).code == 3
        assert factory.call("registry", "up", **own).stdout == first.stdout
    finally:
        factory.call("registry", "down", **own)
        assert until(lambda: factory.call("registry", "status", **own).code == 3, timeout_s=20, every_s=0.1)
        shutil.rmtree(home)
