"""Command lines of pip for a Python version and architecture other than the host's, and its errors."""

import json
import re
import sys
from pathlib import Path

from builder.adapters.upstream.mirror import Mirror
from builder.arch import ARCHES

# Message of pip for a wheel that no index has, at this version and for this Python and architecture.
_MISSING = re.compile(r"No matching distribution found for ([^\s;(]+)")


def pip_install(lock: Path, folder: Path, *, python: str, arch: str) -> list[str]:
    """Return the pip command that installs a locked requirements file into `folder`."""
    platforms = [word for name in ARCHES[arch].wheel_platforms for word in ("--platform", name)]
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(folder), "--python-version", python, "--implementation", "cp", *platforms),
        *("--only-binary=:all:", "--no-deps", "--require-hashes", "-r", str(lock)),
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
    """Return the line of the site file that adds an index to the present ones."""
    return f"pip_extra_indexes = {json.dumps([*mirror.pip_extra_indexes, index])}"
