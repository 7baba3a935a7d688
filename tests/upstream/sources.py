"""Git folders of upstreams: which ones the site file names, their releases and archives of their files."""

import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from builder.errors import UsageError
from builder.site import MirrorSettings

# Role, library or program → URL of its sources.
URLS = {
    "aws_ofi_nccl": "https://github.com/aws/aws-ofi-nccl.git",
    "gdrcopy": "https://github.com/NVIDIA/gdrcopy.git",
    "libfabric": "https://github.com/ofiwg/libfabric.git",
    "nccl_tests": "https://github.com/NVIDIA/nccl-tests.git",
    "nxd_training": "https://github.com/aws-neuron/neuronx-distributed-training.git",
    "verl": "https://github.com/volcengine/verl.git",
}


def folders_of(settings: MirrorSettings) -> dict[str, Path]:
    """Return the bare git folder of each upstream; raise UsageError if the site file names no folder."""
    found = {}
    for name, url in URLS.items():
        folder = Path(settings.rewrite(url).removeprefix("file://"))
        if not (folder.is_absolute() and (folder / "objects").is_dir()):
            raise UsageError(
                f"mirror.prefixes names no bare git folder for {url}",
                hint=f'add "{url}" = "file:///path/of/the/folder" to [mirror.prefixes] in site.toml',
            )
        found[name] = folder
    return found


def release_of(folder: Path, *, below: str = "") -> str:
    """Return the newest release among the tags; `below` excludes that release and later ones."""
    tags = git(folder, "tag", "--list").split()
    versions = [tag.removeprefix("v") for tag in tags if re.fullmatch(r"v\d+(\.\d+)+", tag)]
    fitting = [version for version in versions if not below or _numbers(version) < _numbers(below)]
    if not fitting:
        raise UsageError(f"{folder} has no tag of a release", hint="fetch its tags")
    return max(fitting, key=_numbers)


def archive_of(folder: Path, tag: str, name: str) -> bytes:
    """Return a tar archive of a clone of a tag, in the folder `name`; its version can be read from git."""
    archive = io.BytesIO()
    with tempfile.TemporaryDirectory() as path:
        git(folder, "clone", "--quiet", "--depth=1", f"--branch={tag}", folder.as_uri(), f"{path}/{name}")
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(f"{path}/{name}", arcname=name, filter=_owned_by_root)
    return archive.getvalue()


def git(folder: Path, *words: str) -> str:
    """Return the output of git in a folder that another user may own."""
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    argv = ["git", "-c", "advice.detachedHead=false", "-C", str(folder), *words]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=os.environ | settings)
    return done.stdout


def serve_folders(site_folder: Path, folders: Mapping[str, Path]) -> None:
    """Link the git folders into the folder of a site, which serves them under their URLs."""
    for name, folder in folders.items():
        link = site_folder / URLS[name].partition("://")[2]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    return entry.replace(uid=0, gid=0, uname="root", gname="root", deep=False)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
