"""Command lines of pip that install for a Python version and architecture other than the host's."""

import sys
from pathlib import Path

from builder.arch import ARCHES


def pip_install(lock: Path, folder: Path, *, python: str, arch: str) -> list[str]:
    """Return the pip command that installs a locked requirements file into `folder`."""
    platforms = [word for name in ARCHES[arch].wheel_platforms for word in ("--platform", name)]
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(folder), "--python-version", python, "--implementation", "cp", *platforms),
        *("--only-binary=:all:", "--no-deps", "--require-hashes", "-r", str(lock)),
    ]
