"""Git folders of upstreams that the site file names, as `make upstream` uses them."""

import io
import tarfile
from pathlib import Path

import pytest

from builder.errors import UsageError
from builder.site import MirrorSettings
from tests.standins.site import Site
from tests.upstream import sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Bare git folder with three releases."""
    site = Site(folder=tmp_path, pins={})
    for tag in ("v1.9.0", "v1.10.0", "v1.11.0-aws"):
        site.git("https://host.invalid/x.git", tag, {"file": tag})
    return tmp_path / "host.invalid/x.git"


def test_prefixes_name_the_folders(folder: Path) -> None:
    settings = MirrorSettings(prefixes=dict.fromkeys(sources.URLS.values(), folder.as_uri()))
    assert sources.folders_of(settings) == dict.fromkeys(sources.URLS, folder)


@pytest.mark.parametrize("value", ["", "file:///no/such/folder", "https://mirror.invalid/"])
def test_refuses_a_site_without_a_folder(folder: Path, value: str) -> None:
    prefixes = dict.fromkeys(sources.URLS.values(), folder.as_uri())
    prefixes.pop(sources.URLS["gdrcopy"])
    settings = MirrorSettings(prefixes=prefixes | ({sources.URLS["gdrcopy"]: value} if value else {}))
    with pytest.raises(UsageError, match=r"no bare git folder for https://github\.com/NVIDIA/gdrcopy\.git"):
        sources.folders_of(settings)


def test_newest_release_is_chosen(folder: Path) -> None:
    assert sources.release_of(folder) == "1.10.0"
    assert sources.release_of(folder, below="1.10.0") == "1.9.0"


def test_archive_is_a_clone_of_the_tag(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(sources.archive_of(folder, "v1.9.0", "x"))) as archive:
        archive.extractall(tmp_path, filter="data")
    assert (tmp_path / "x/file").read_text() == "v1.9.0"
    assert sources.git(tmp_path / "x", "tag", "--points-at", "HEAD") == "v1.9.0\n"


def test_site_serves_the_folders(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    sources.serve_folders(site, {"gdrcopy": folder})
    assert (site / "github.com/NVIDIA/gdrcopy.git").resolve() == folder
