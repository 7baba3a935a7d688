"""Check that every unused entry of the catalog is listed in catalog/unused.toml with a reason."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder import catalog
from builder.members import members_of, policy_of
from builder.model import Catalog, Flavour, Target

PLUGIN = "aws_ofi_nccl"


@pytest.fixture(scope="module")
def loaded(root: Path) -> Catalog:
    return catalog.load(root)


@pytest.fixture(scope="module")
def unused(root: Path) -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads((root / "catalog/unused.toml").read_text(encoding="utf-8"))


def flavours(loaded: Catalog) -> Iterator[tuple[Target, Flavour]]:
    for target in loaded.targets.values():
        for flavour in target.flavours.values():
            yield target, flavour


def test_every_component_is_used_or_listed_as_unused(
    loaded: Catalog, unused: Mapping[str, Mapping[str, str]]
) -> None:
    members = {name for pair in flavours(loaded) for name in members_of(loaded, *pair)}
    assert set(unused["components"]) == set(loaded.components) - members


def test_every_stack_is_used_or_listed_as_unused(
    loaded: Catalog, unused: Mapping[str, Mapping[str, str]]
) -> None:
    used = {flavour.stack for _, flavour in flavours(loaded)}
    assert set(unused["stacks"]) == set(loaded.stacks) - used


def test_every_system_and_profile_is_used(root: Path, loaded: Catalog) -> None:
    assert {flavour.system for _, flavour in flavours(loaded)} == set(loaded.systems)
    files = [*(root / "catalog/targets").glob("*.toml"), *(root / "catalog/profiles").glob("*.toml")]
    inherited = {tomllib.loads(path.read_text(encoding="utf-8")).get("inherits") for path in files}
    assert {path.stem for path in (root / "catalog/profiles").glob("*.toml")} == inherited - {None}


def test_every_image_without_the_nccl_plugin_is_listed_in_unused_toml(
    loaded: Catalog, unused: Mapping[str, Mapping[str, str]]
) -> None:
    lacking: set[str] = set()
    for target in loaded.targets.values():
        names = {
            flavour.name
            for flavour in target.flavours.values()
            if PLUGIN not in members_of(loaded, target, flavour) and not flavour.stack.startswith("cpu-")
        }
        lacking |= {target.name} if names == set(target.flavours) else {f"{target.name}@{n}" for n in names}
    assert lacking == set(unused[PLUGIN])  # stacks without an accelerator need no entry


def test_gpu_target_with_a_full_efa_installation_has_the_nccl_plugin(loaded: Catalog) -> None:
    found = set()
    for target, flavour in flavours(loaded):
        members = members_of(loaded, target, flavour)
        has_gpu = bool({"nccl", "nvidia_driver"} & set(members))
        if "efa" in members and has_gpu and not target.variables.get("efa_minimal"):
            assert PLUGIN in members, f"{target.name}@{flavour.name}"
            found.add(target.name)
    assert found == {"ami-gpu", "ami-pcluster-gpu", "ami-pcs-gpu", "nccl-tests"}


def test_nccl_plugin_has_the_version_bundled_with_the_efa_installer(root: Path, loaded: Catalog) -> None:
    table = tomllib.loads((root / "catalog/versions/efa.toml").read_text(encoding="utf-8"))
    releases = {
        release["version"]: {**release.get("keeps", {}), **release.get("brings", {})}
        for release in table["release"]
    }
    for target, flavour in flavours(loaded):
        stack = loaded.stacks[flavour.stack]
        if PLUGIN in members_of(loaded, target, flavour):
            assert stack.versions[PLUGIN] == releases[stack.pins["efa"]][PLUGIN]
            assert policy_of(PLUGIN, target, flavour) == ""


def test_every_unused_entry_has_a_reason(unused: Mapping[str, Mapping[str, str]]) -> None:
    assert set(unused) == {"components", "stacks", PLUGIN}
    assert all(reason.strip() for table in unused.values() for reason in table.values())
