"""Parsing of the pinned Ansible collections and Packer plugins."""

from pathlib import Path

import pytest

from builder import tooling
from builder.errors import CatalogError
from tests.support.repository import Repository

GALAXY = "https://galaxy.ansible.com/api/v3/plugin/ansible/content/published/collections/artifacts"
PLUGIN = """
[[plugins]]
name = "amazon"
version = "1.2.3"
source = "github.com/hashicorp/amazon"
url = "https://vendor.example/{name}_{version}_linux_{deb_arch}.zip"
"""


def test_missing_tooling_files_mean_no_downloads(repository: Repository) -> None:
    assert tooling.read(repository.root) == ()


@pytest.mark.parametrize(
    "text",
    [
        "---\ncollections:\n  - name: ansible.posix\n    version: 2.1.0\n",
        "# ours\ncollections:\n- version: '2.1.0'  # tested\n  name: \"ansible.posix\"\n\n",
    ],
)
def test_collections_are_downloaded_from_ansible_galaxy(repository: Repository, text: str) -> None:
    repository.write(tooling.COLLECTIONS, text)
    (found,) = tooling.read(repository.root)
    assert (found.name, found.url) == (
        "Ansible collection ansible.posix",
        f"{GALAXY}/ansible-posix-2.1.0.tar.gz",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("collections:\n  - name: ansible.posix\n", "collections[0]: needs a name"),
        ("collections:\n  - name: ansible.posix\n    version: '>=2.1'\n", "line 3: unsupported line"),
        ("collections:\n  - name: posix\n    version: 2.1.0\n", "collections[0]: needs a name"),
        ("collections:\n  - name: ansible.posix\n    version: 2.1\n", "an exact version"),
        ("roles:\n  - name: ansible.posix\n    version: 2.1.0\n", "line 1: unsupported line"),
        ("collections:\n  - ansible.posix\n", "line 2: unsupported line"),
    ],
)
def test_collection_without_name_or_exact_version_is_refused(
    repository: Repository, text: str, problem: str
) -> None:
    repository.write(tooling.COLLECTIONS, text)
    with pytest.raises(CatalogError) as caught:
        tooling.read(repository.root)
    assert any(found.startswith(tooling.COLLECTIONS) and problem in found for found in caught.value.problems)


def test_packer_plugin_has_a_download_for_each_host_architecture(repository: Repository) -> None:
    repository.write("catalog/packer.toml", PLUGIN)
    assert [download.url for download in tooling.read(repository.root)] == [
        f"https://vendor.example/amazon_1.2.3_linux_{arch}.zip" for arch in ("amd64", "arm64")
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("version", "verzion", "plugins[0].verzion: unknown key (did you mean 'version'?)"),
        ("{deb_arch}", "{debarch}", "plugins[0].url: no placeholder 'debarch'"),
        ("github.com/hashicorp/amazon", "../../x", "plugins[0].source: must be HOST/OWNER/NAME"),
        ("plugins", "plugin", "plugin: unknown key (did you mean 'plugins'?)"),
    ],
)
def test_invalid_packer_toml_is_refused(repository: Repository, old: str, new: str, problem: str) -> None:
    repository.write("catalog/packer.toml", PLUGIN.replace(old, new))
    with pytest.raises(CatalogError) as caught:
        tooling.read(repository.root)
    assert f"packer.toml: {problem}" in caught.value.problems


def test_this_repository_pins_the_packer_plugins(root: Path) -> None:
    names = {download.name for download in tooling.read(root) if download.kinds == ("ami",)}
    assert names == {"Packer plugin amazon", "Packer plugin ansible"}
