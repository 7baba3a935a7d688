"""Command lines of pip for a Python version and architecture other than the host's, and its errors."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.adapters.upstream.mirror import Mirror
from builder.arch import ARCHES

# Message of pip if no index has a wheel of this version for the Python version and architecture.
_MISSING = re.compile(r"No matching distribution found for ([^\s;(]+)")
_INSTALL = ("install", "--disable-pip-version-check", "--progress-bar", "off")


def pip_install(lock: Path, folder: Path, *, python: str, arch: str) -> list[str]:
    """Return the pip command that installs a locked requirements file into `folder`."""
    return [
        *_pip(python, arch),
        *("--quiet", *_platform(folder, python=python, arch=arch)),
        *("--no-deps", "--require-hashes", "-r", str(lock)),
    ]


def pip_resolve(
    requirements: Path, constraints: Path, folder: Path, *, python: str, arch: str
) -> tuple[list[str], Path]:
    """Return the command that resolves requirements without installing them, and the path of its report."""
    report = folder / "report.json"
    return [
        *_pip(python, arch),
        *_platform(folder, python=python, arch=arch),
        *("--dry-run", "--ignore-installed", "--report", str(report)),
        *("-r", str(requirements), "-c", str(constraints)),
    ], report


def _pip(python: str, arch: str) -> list[str]:
    """Return the first arguments of a pip install command for a Python version and architecture."""
    program = ("-P", "-m", "builder.adapters.upstream.foreign_pip", python, ARCHES[arch].uname)
    return [sys.executable, *program, *_INSTALL]


def _platform(folder: Path, *, python: str, arch: str) -> list[str]:
    platforms = [word for name in ARCHES[arch].wheel_platforms for word in ("--platform", name)]
    return [
        *("--target", str(folder), "--python-version", python, "--implementation", "cp", *platforms),
        "--only-binary=:all:",
    ]


def missing_requirement(output: str) -> str:
    """Return the requirement for which pip found no wheel, such as torch==2.13.0, or ""."""
    found = _MISSING.search(output)
    return found[1] if found else ""


def missing_wheel(output: str, mirror: Mirror) -> tuple[str, str] | None:
    """Return message and hint if pip's output says that no index has a wheel, otherwise None."""
    wheel = missing_requirement(output)
    if not wheel:
        return None
    named = (mirror.pip_index, *mirror.pip_extra_indexes, *mirror.pip_find_links, mirror.last_index)
    asked = ", ".join(filter(None, ("" if mirror.pip_index else "pip's default index", *named)))
    message = f"no index of this site has the wheel {wheel}; asked: {asked}"
    if not mirror.wheel_index:
        return message, f"add an index that has it below [mirror] in site.toml: {_extra(mirror, 'https://…')}"
    line = f"below [mirror] in site.toml: {_extra(mirror, mirror.wheel_index)}"
    if mirror.settings.only:
        return f"{message}; the stack expects it at {mirror.wheel_index}", f"allow it or its mirror {line}"
    return message, f"check that {mirror.wheel_index} answers: builder doctor; or set a mirror of it {line}"


def _extra(mirror: Mirror, index: str) -> str:
    """Return a line for site.toml that adds an index to the current extra indexes."""
    return f"pip_extra_indexes = {json.dumps([*mirror.pip_extra_indexes, index])}"


def environment_of(mirror: Mirror, *, extra: Sequence[str]) -> dict[str, str]:
    """Return an environment in which pip uses the mirror's settings, with `extra` as its extra indexes."""
    settings = {
        "PIP_INDEX_URL": mirror.pip_index,
        "PIP_EXTRA_INDEX_URL": " ".join(extra),
        "PIP_FIND_LINKS": " ".join(mirror.pip_find_links),
        "PIP_CERT": str(mirror.ca_bundle or ""),
        **mirror.proxies,
    }
    return os.environ | {name: value for name, value in settings.items() if value}
