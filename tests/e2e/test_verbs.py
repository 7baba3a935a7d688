"""The commands doctor, plan, clean, check and registry, with the real container engine."""

import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from builder import catalog
from builder.wait import until
from tests.support.factory import Factory
from tests.support.output import envelope_of

pytestmark = [pytest.mark.engine, pytest.mark.e2e]


def test_doctor_succeeds_on_a_machine_that_can_build(factory: Factory) -> None:
    done = factory.call("doctor")
    assert done.code == 0, done.stdout
    for topic in ("engine", "catalog", "mmdebstrap", "cache disk", "registry", "credentials"):
        assert topic in done.stdout


def test_doctor_prints_every_problem_with_a_fix(factory: Factory) -> None:
    factory.repository.write("catalog/systems/broken.toml", "what\n")
    done = factory.call("doctor", DOCKER_HOST="unix:///nowhere.sock", PATH="/nowhere")
    assert done.code == 3
    for message in (
        "no answer from the engine",
        "systems/broken.toml",
        "mmdebstrap",
        "fix: apt-get install docker.io",
    ):
        assert message in done.stdout


def test_clean_lists_the_remains_of_a_killed_run_and_clean_yes_removes_them(factory: Factory) -> None:
    assert factory.signalled(signal.SIGKILL, ("step.task", "hello/system")) == -signal.SIGKILL
    shown = factory.call("clean")
    assert shown.code == 0
    assert "its process is gone" in shown.stdout
    assert "builder clean --yes" in shown.stderr
    assert factory.scratch() != []
    assert factory.call("clean", "--yes").code == 0
    assert factory.scratch() == []
    assert factory.containers() == []


def test_clean_lists_only_layers_that_no_target_needs(factory: Factory) -> None:
    assert factory.build().code == 0
    needed = set(factory.repository.keys().values())
    old = factory.repository.keys()["workload"]
    factory.repository.replace("containers/hello/src/hello.py", "hello", "good day")
    assert factory.build().code == 0
    listed = factory.call("clean").stdout
    assert f"layer {old[:12]}" in listed
    assert not [key for key in needed - {old} if f"layer {key[:12]}" in listed]


def test_plan_prints_a_target_that_the_site_cannot_build_but_exits_with_an_error(root: Path) -> None:
    """The base image of some systems exists in AWS accounts only."""
    targets = [target for target in catalog.load(root).targets.values() if target.kind == "ami"]
    words = [word for target in targets for word in ("--target", target.name)]
    done = subprocess.run(
        [sys.executable, "-m", "builder.cli.main", "plan", *words],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("ami-")] == [
        target.name for target in targets
    ]
    assert done.returncode == 2
    assert "can only be built in an AWS account" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_refuses_a_missing_image(factory: Factory) -> None:
    done = factory.call("check", "nowhere:1", "--target", "hello")
    assert done.code == 2
    assert "no image 'nowhere:1' in the engine" in done.stderr


def test_check_reports_that_an_image_has_no_shell(factory: Factory, tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("hello")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(tmp_path / "hello.txt", "hello.txt")
    factory.engine.import_image(tmp_path / "root.tar", repository="no-shell", tag="1", changes=['CMD ["x"]'])
    try:
        done = factory.call("check", "no-shell:1", "--target", "hello", "--json")
    finally:
        factory.engine.remove_image("no-shell:1")
    assert done.code == 5
    assert done.stderr.count("no shell in this image") >= 1
    envelope = envelope_of(done.stdout)
    assert envelope["error"]["message"].startswith("no shell in this image: /bin/sh and sleep do not run in")
    assert factory.containers() == []


def test_check_reads_the_target_from_the_label_of_an_image(built: Factory) -> None:
    image = f"factory-layers:{built.repository.keys()['workload']}"
    done = built.call("check", image)
    assert done.code == 0, done.stderr
    found = built.engine.inspect_image(image)
    assert found is not None
    assert done.stdout == f"{found['Id']}\n"


def test_check_fails_for_an_incomplete_image(built: Factory) -> None:
    done = built.call("check", f"factory-layers:{built.repository.keys()['base']}", "--target", "hello")
    assert done.code == 5
    assert "checks failed" in done.stderr


def test_the_local_registry_restarts_at_the_same_address(
    factory: Factory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("own-home")
    environment = {"BUILDER_HOME": str(home)}
    try:
        first = factory.call("registry", "up", **environment)
        assert first.code == 0, first.stderr
        assert factory.call("registry", "up", **environment).stdout == first.stdout
        assert factory.call("registry", "status", **environment).stdout == first.stdout
        assert factory.call("registry", "down", **environment).code == 0
        assert factory.call("registry", "status", **environment).code == 3
        assert factory.call("registry", "up", **environment).stdout == first.stdout
    finally:
        factory.call("registry", "down", **environment)
        assert until(
            lambda: factory.call("registry", "status", **environment).code == 3, timeout_s=20, every_s=0.1
        )
        shutil.rmtree(home)
