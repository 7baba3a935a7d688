"""Builds on a vendor's base image from a private registry: lock, login, verification, and errors."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.engine.client import LAYERS
from builder.rehearsal.registry.server import LocalRegistry
from tests.support.factory import Factory

pytestmark = [pytest.mark.engine, pytest.mark.e2e, pytest.mark.boundaries]

IMAGE = "registry.example.org/vendor/base:1"
SYSTEM = f"""
summary = "an image"
distribution = "debian"
family = "debian"
release = "12"
arches = ["x86_64"]
python = "3.11"
image = "{IMAGE}"
contains = ["fabric"]
[distributions]
python-apt = "2.6"
"""
TARGET = """
summary = "runs on an image"
kind = "container"
components = ["vendor_base"]
workload = "train"
[flavours.dlc]
summary = "the image"
system = "vendor-1"
stack = "plain-1"
policy = { vendor_base = "verify_only" }
"""


@pytest.fixture
def login(tmp_path: Path, built: Factory) -> Iterator[dict[str, str]]:
    """Environment with a login to the registry of the base image; the image is not in the engine."""
    config = tmp_path / "docker"

    def docker(*words: str, stdin: str = "") -> None:
        command = ["docker", "--config", str(config), *words]
        subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=300)

    with LocalRegistry(tmp_path / "registry", login=("me", "secret"), create_on_push=False) as registry:
        registry.create_repository("vendor/base")
        name = f"{registry.host}/vendor/base:1"
        docker("login", "--username", "me", "--password-stdin", registry.host, stdin="secret")
        docker("tag", f"{LAYERS}:{built.repository.keys()['base']}", name)
        docker("push", name)
        docker("rmi", name)
        prefixes = f'"registry.example.org/" = "{registry.host}/"'
        built.repository.write("site.toml", f"[mirror.prefixes]\n{prefixes}\n")
        yield {"DOCKER_CONFIG": str(config)}
        pulled = built.engine.images(reference=f"{registry.host}/vendor/base")
        for image in pulled:
            for digest in (built.engine.inspect_image(image.id) or {}).get("RepoDigests", ()):
                if digest.startswith(registry.host):
                    built.engine.remove_image(digest)


@pytest.fixture
def vendor(built: Factory, root: Path) -> Factory:
    built.use_role(root, "vendor_base", 'summary = "an image"\nlayer = "system"\n')
    shutil.copytree(root / "ansible/checks", built.repository.root / "ansible/checks")
    built.repository.write("catalog/systems/vendor-1.toml", SYSTEM)
    built.repository.write("catalog/targets/train.toml", TARGET)
    dockerfile = "ARG PARENT\nFROM ${PARENT}\nENTRYPOINT []\n"
    built.repository.write("containers/train/Dockerfile", dockerfile)
    return built


def test_image_on_a_verified_base_image_is_built_and_checked(vendor: Factory, login: dict[str, str]) -> None:
    refused = vendor.build("train", **login)
    assert refused.code == 7
    assert f"image {IMAGE} x86_64" in refused.stderr
    locked = vendor.call("lock", "train", **login)
    assert locked.code == 0, locked.stderr
    build = vendor.build("train", **login)
    assert build.code == 0, build.stderr
    assert build.outcomes == {"base": "built", "system": "built", "workload": "built", "checks": "passed"}
    wrong = SYSTEM.replace('release = "12"', 'release = "24.04"')
    vendor.repository.write("catalog/systems/vendor-1.toml", wrong)
    other = vendor.build("train", **login)
    assert other.code == 4
    assert "The catalog says that the base image has debian 24.04, but it has debian 12" in other.stderr
    vendor.repository.write("catalog/systems/vendor-1.toml", SYSTEM.replace('"2.6"', '"9.9"'))
    checked = vendor.build("train", **login)
    assert checked.code == 5
    assert "python_distributions_have_the_versions" in checked.stderr


def test_error_about_a_base_image_that_cannot_be_pulled_suggests_a_mirror(
    vendor: Factory, login: dict[str, str], tmp_path: Path
) -> None:
    assert vendor.call("lock", "train", **login).code == 0
    build = vendor.build("train", "--rebuild", "base", DOCKER_CONFIG=str(tmp_path))
    assert build.code == 3
    assert "cannot be pulled" in build.stderr
    assert "[mirror.prefixes]" in build.stderr


def test_purge_then_install_removes_packages_and_paths_of_the_base_image(
    vendor: Factory, login: dict[str, str]
) -> None:
    purging = TARGET.replace("verify_only", "purge_then_install")
    variables = (
        '[variables]\nvendor_base_purged = ["ca-certificates"]\nvendor_base_purged_paths = ["/etc/motd"]\n'
    )
    vendor.repository.write("catalog/systems/vendor-1.toml", SYSTEM.partition("[distributions]")[0])
    vendor.repository.write("catalog/targets/train.toml", purging + variables)
    assert vendor.call("lock", "train", **login).code == 0
    build = vendor.build("train", **login)
    assert build.code == 0, build.stderr
