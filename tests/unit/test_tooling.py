"""What the factory fetches for itself, as files say it: collections of Ansible, plugins of Packer."""

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


def test_without_files_nothing_is_fetched(repository: Repository) -> None:
    assert tooling.read(repository.root) == ()


@pytest.mark.parametrize(
    "text",
    [
        "---\ncollections:\n  - name: ansible.posix\n    version: 2.1.0\n",
        "# ours\ncollections:\n- version: '2.1.0'  # tested\n  name: \"ansible.posix\"\n\n",
    ],
)
def test_collections_are_archives_of_the_galaxy(repository: Repository, text: str) -> None:
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
        ("collections:\n  - name: ansible.posix\n    version: '>=2.1'\n", "line 3: below collections"),
        ("collections:\n  - name: posix\n    version: 2.1.0\n", "collections[0]: needs a name"),
        ("collections:\n  - name: ansible.posix\n    version: 2.1\n", "an exact version"),
        ("roles:\n  - name: ansible.posix\n    version: 2.1.0\n", "line 1: below collections"),
        ("collections:\n  - ansible.posix\n", "line 2: below collections"),
    ],
)
def test_a_collection_without_an_exact_version_is_refused(
    repository: Repository, text: str, problem: str
) -> None:
    repository.write(tooling.COLLECTIONS, text)
    with pytest.raises(CatalogError) as caught:
        tooling.read(repository.root)
    assert any(one.startswith(tooling.COLLECTIONS) and problem in one for one in caught.value.problems)


def test_a_plugin_is_an_archive_for_each_machine(repository: Repository) -> None:
    repository.write("catalog/packer.toml", PLUGIN)
    assert [one.url for one in tooling.read(repository.root)] == [
        f"https://vendor.example/amazon_1.2.3_linux_{arch}.zip" for arch in ("amd64", "arm64")
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("version", "verzion", "plugins[0].verzion: unknown key (did you mean 'version'?)"),
        ("{deb_arch}", "{debarch}", "plugins[0].url: no placeholder 'debarch'"),
        ("plugins", "plugin", "plugin: unknown key (did you mean 'plugins'?)"),
    ],
)
def test_a_wrong_file_of_plugins_is_refused(repository: Repository, old: str, new: str, problem: str) -> None:
    repository.write("catalog/packer.toml", PLUGIN.replace(old, new))
    with pytest.raises(CatalogError) as caught:
        tooling.read(repository.root)
    assert f"packer.toml: {problem}" in caught.value.problems


def test_the_plugins_of_this_repository_are_pinned(root: Path) -> None:
    names = {one.name for one in tooling.read(root) if one.kinds == ("ami",)}
    assert names == {"Packer plugin amazon", "Packer plugin ansible"}
