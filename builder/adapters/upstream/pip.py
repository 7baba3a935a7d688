"""Command lines for pip: install a lock for a Python and an architecture other than our own."""

import sys
from pathlib import Path

from builder.arch import ARCHES


def pip_install(lock: Path, folder: Path, *, python: str, arch: str) -> list[str]:
    """The command that installs exactly a lock into `folder`, for the given Python and architecture."""
    platforms = [word for name in ARCHES[arch].wheel_platforms for word in ("--platform", name)]
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(folder), "--python-version", python, "--implementation", "cp", *platforms),
        *("--only-binary=:all:", "--no-deps", "--require-hashes", "-r", str(lock)),
    ]
