"""Build and publish two container targets, and train with the program of a third target."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.engine.client import Engine
from builder.adapters.registry.local import serving
from tests.support.factory import Factory
from tests.support.output import result_of

pytestmark = pytest.mark.engine

BOUND_S = 1800
TARGETS = ("cpu-ddp", "param-benchmark")
# Command line of torchrun that needs no network, as in containers/common/smoke.py.
TORCHRUN = (
    *("torchrun", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
    *("--local-addr", "127.0.0.1", "train.py", "--smoke", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("site")
    with serving(folder / "registry") as registry:
        site = folder / "site.toml"
        site.write_text(f'[registry]\npush = "{registry.find()}"\n', encoding="utf-8")
        login = {"auth": registry.credentials.basic.removeprefix("Basic ")}
        (folder / "config.json").write_text(json.dumps({"auths": {registry.find(): login}}), encoding="utf-8")
        yield os.environ | {
            "BUILDER_HOME": str(home),
            "BUILDER_SITE_FILE": str(site),
            "DOCKER_CONFIG": str(folder),
            "NO_COLOR": "1",
        }


def call(root: Path, environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `builder`; add `--flavour cpu` to the commands build and plan."""
    flavour = ("--flavour", "cpu") if words[0] in ("build", "plan") else ()
    return subprocess.run(
        [sys.executable, "-m", "builder.cli.main", *words, *flavour],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


@pytest.fixture(scope="module")
def published(root: Path, environment: dict[str, str], built_once: Factory) -> dict[str, str]:
    """Maps each target to the digest reference of its published image."""
    assert built_once
    done = call(root, environment, "build", *TARGETS, "--publish")
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()
    return {name.split("/")[1].split("@")[0]: name for name in names}


def test_every_target_is_published_by_digest(root: Path, published: dict[str, str]) -> None:
    assert set(published) == set(TARGETS)
    for name in published.values():
        assert re.fullmatch(r"127\.0\.0\.1:\d+/[a-z0-9-]+@sha256:[0-9a-f]{64}", name)


def builds(root: Path) -> set[str]:
    """Return the names of all runs except rehearsals, which tests of other workers start."""
    names = (path.name for path in (root / "out" / "runs").iterdir())
    return {name for name in names if "-rehearse-" not in name}


def test_a_second_build_reuses_all_layers_and_publications(
    root: Path, environment: dict[str, str], published: dict[str, str]
) -> None:
    runs = builds(root)
    done = call(root, environment, "build", *TARGETS, "--publish")
    assert done.stdout.splitlines() == list(published.values())
    assert builds(root) == runs


def test_the_printed_next_command_trains(
    root: Path, environment: dict[str, str], published: dict[str, str]
) -> None:
    """Run the command that a build of cpu-ddp prints at its end."""
    assert published
    stderr = call(root, environment, "build", "cpu-ddp").stderr
    (line,) = [line for line in stderr.splitlines() if line.split()[:1] == ["next"]]
    program, *words = shlex.split(line.partition("next")[2])
    assert (program, words[:2]) == ("builder", ["run", "cpu-ddp"])
    done = call(root, environment, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["finished"] is True


def test_fsdp_program_trains_in_the_image_of_cpu_ddp(
    root: Path, environment: dict[str, str], published: dict[str, str], tmp_path: Path
) -> None:
    """Run the program of pytorch-fsdp in the image of cpu-ddp; both images have the same framework layer."""
    assert published
    for folder in ("common", "pytorch-fsdp/src"):
        shutil.copytree(root / "containers" / folder, tmp_path / "workload", dirs_exist_ok=True)
    (tmp_path / "workload/bin").mkdir()
    shutil.copy(root / "containers/common/launch.py", tmp_path / "workload/bin/torchrun")
    (tmp_path / "workload/bin/torchrun").chmod(0o755)
    settings = ("--network", "none", "--env", "OMP_NUM_THREADS=1", "--env", "GLOO_SOCKET_IFNAME=lo")
    mounted = ("--volume", f"{tmp_path}/workload:/opt/workload:ro")
    argv = ["docker", "run", "--rm", *settings, *mounted, "cpu-ddp:cpu-debian-12", *TORCHRUN]
    done = subprocess.run(
        [*argv, "--checkpoint-dir", "/tmp/checkpoints"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["program"], result["world_size"]) == ("pytorch-fsdp", 2)
    assert result["last_loss"] < result["first_loss"] / 2


def test_targets_share_all_layers_up_to_the_framework(
    root: Path, environment: dict[str, str], published: dict[str, str]
) -> None:
    assert published
    words = [word for name in published for word in ("--target", name)]
    plans = result_of(call(root, environment, "plan", "--json", *words).stdout)
    keys = {tuple(layer["key"] for layer in plan["layers"][:4]) for plan in plans}
    assert len(keys) == 1
    assert {layer["state"] for plan in plans for layer in plan["layers"]} == {"reuse"}


@pytest.mark.parametrize("target", TARGETS)
def test_image_configuration_has_no_trace_of_the_build_host(published: dict[str, str], target: str) -> None:
    image = Engine().inspect_image(f"{target}:cpu-debian-12")
    assert image
    labels = image["Config"]["Labels"]
    assert labels["factory.target"] == target
    assert json.loads(labels["factory.versions"])["torch"].startswith("2.")
    names = {word.split("=")[0] for word in image["Config"]["Env"]}
    assert not [name for name in names if re.match(r"(?i)pip_|ansible|apt_|.*_proxy|ssl_|builder", name)]
    assert image["Config"]["Hostname"] == ""
    assert str(published[target])
