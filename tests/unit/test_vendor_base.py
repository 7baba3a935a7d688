"""Targets on a vendor's base image: catalog errors, variables of the role, and missing lock entries."""

import pytest

from builder.app.context import Context, base_facts
from builder.cli.main import main
from builder.errors import CatalogError, IntegrityError
from builder.logins import login_command
from builder.pipeline import require_locked
from builder.plan import variables_of
from tests.support.repository import Repository, flavour

IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/vendor/train:1.0"
SYSTEM = f"""
summary = "an image"
distribution = "ubuntu"
family = "debian"
release = "24.04"
arches = ["x86_64"]
python = "3.12"
image = "{IMAGE}"
contains = ["fabric"]
[distributions]
greet = "1.0"
"""
TARGET = """
summary = "runs on an image"
kind = "container"
components = ["vendor_base"]
[flavours.dlc]
summary = "the image"
system = "vendor-1"
stack = "plain-1"
policy = { vendor_base = "verify_only" }
"""


@pytest.fixture
def vendor(repository: Repository) -> Repository:
    repository.write("catalog/components/vendor_base.toml", 'summary = "an image"\nlayer = "system"\n')
    repository.write("ansible/roles/vendor_base/tasks/main.yml", "[]\n")
    repository.write("ansible/roles/vendor_base/defaults/main.yml", "vendor_base_policy: verify_only\n")
    repository.write("catalog/systems/vendor-1.toml", SYSTEM)
    repository.write("catalog/targets/train.toml", TARGET)
    return repository


def plan(repository: Repository):  # type: ignore[no-untyped-def]
    return Context(repository.root, arch="x86_64").plan("train")


def test_verified_components_are_not_installed_and_their_versions_are_checked(vendor: Repository) -> None:
    found = plan(vendor)
    assert found.components == ("vendor_base",)
    assert variables_of(found) == {
        "vendor_base_contains": ["fabric"],
        "vendor_base_distributions": {"greet": "1.0"},
        "vendor_base_versions": {"fabric": "1.2-3"},
        "vendor_base_policy": "verify_only",
    }


def test_key_covers_the_declared_contents_of_the_base_image(vendor: Repository) -> None:
    before = plan(vendor).key
    vendor.replace("catalog/systems/vendor-1.toml", 'greet = "1.0"', 'greet = "1.1"')
    assert plan(vendor).key != before


def test_build_error_names_the_unlocked_base_image_and_its_login_command(vendor: Repository) -> None:
    with pytest.raises(IntegrityError) as caught:
        require_locked([plan(vendor)])
    assert f"image {IMAGE} x86_64 (system vendor-1)" in str(caught.value)
    login, command = caught.value.hint.split("; ")[:2]
    assert login == login_command(IMAGE)
    assert command == "builder lock train"


def test_show_prints_base_image_policy_and_login_command(
    vendor: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "train", "--root", str(vendor.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"base image\t{IMAGE}" in lines
    assert "flavour\tsystem\tstack\tpolicy\tsummary" in lines
    assert "dlc\tvendor-1\tplain-1\tverify-only\tthe image" in lines
    assert base_facts(Context(vendor.root, arch="x86_64").plan("hello")) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        (
            "targets/train.toml",
            '["vendor_base"]',
            '["vendor_base", "fabric"]',
            "targets/train.toml: flavours.dlc.policy.vendor_base: 'fabric' is part of the base image, and its"
            " policy is verify_only",
        ),
        (
            "targets/train.toml",
            '"verify_only"',
            '"verify"',
            "targets/train.toml: flavours.dlc.policy.vendor_base: no policy 'verify' (did you mean"
            " 'verify_only'?)",
        ),
        (
            "targets/train.toml",
            'components = ["vendor_base"]',
            'components = ["base"]',
            "targets/train.toml: flavours.dlc.system: system 'vendor-1' is a vendor's image: add component"
            " 'vendor_base' and its policy",
        ),
        (
            "systems/vendor-1.toml",
            '["fabric"]',
            '["fabrik"]',
            "systems/vendor-1.toml: contains[0]: no component 'fabrik' (did you mean 'fabric'?)",
        ),
        (
            "systems/vendor-1.toml",
            f'image = "{IMAGE}"',
            '[ami]\nuser = "ubuntu"\nregions = ["us-east-1"]\nparameter = "/a"',
            "systems/vendor-1.toml: contains: needs image, the base image that it describes",
        ),
    ],
)
def test_mistake_in_a_vendor_base_target_or_system_is_refused(
    vendor: Repository, file: str, old: str, new: str, problem: str
) -> None:
    text = (vendor.root / "catalog" / file).read_text()
    assert old in text
    changed = text.replace(old, "") + new + "\n" if new.startswith("[ami]") else text.replace(old, new)
    (vendor.root / "catalog" / file).write_text(changed)
    with pytest.raises(CatalogError) as caught:
        vendor.load()
    assert problem in caught.value.problems


def test_component_vendor_base_needs_a_system_with_an_image(vendor: Repository) -> None:
    path = vendor.root / "catalog/targets/train.toml"
    path.write_text(path.read_text() + flavour("tiny-1", "plain-1"))
    with pytest.raises(CatalogError) as caught:
        vendor.load()
    assert "targets/train.toml: flavours.plain.system: 'vendor_base' needs a system with an image" in (
        caught.value.problems
    )


@pytest.mark.parametrize(
    ("image", "command"),
    [
        (
            "763104351884.dkr.ecr.eu-west-1.amazonaws.com/a/b:1",
            "aws ecr get-login-password --region eu-west-1 | docker login --username AWS --password-stdin"
            " 763104351884.dkr.ecr.eu-west-1.amazonaws.com",
        ),
        ("nvcr.io/nvidia/nemo:26.04.01", "docker login --username '$oauthtoken' nvcr.io"),
        ("public.ecr.aws/neuron/train:1", ""),
        ("docker.io/vllm/vllm-openai:v1", ""),
    ],
)
def test_login_command_depends_on_the_registry(image: str, command: str) -> None:
    assert login_command(image) == command
