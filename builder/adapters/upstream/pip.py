"""Command lines for pip: install a lock for a Python and an architecture other than our own."""

import sys
from pathlib import Path

_PLATFORMS = {
    "x86_64": ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64"),
    "arm64": ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64"),
}


def pip_install(lock: Path, folder: Path, *, python: str, arch: str) -> list[str]:
    """The command that installs exactly a lock into `folder`, for the given Python and architecture."""
    platforms = [word for name in _PLATFORMS[arch] for word in ("--platform", name)]
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(folder), "--python-version", python, "--implementation", "cp", *platforms),
        *("--only-binary=:all:", "--no-deps", "--require-hashes", "-r", str(lock)),
    ]
