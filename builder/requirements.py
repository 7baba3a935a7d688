"""Reads pip's lock files: exact versions with hashes, or nothing."""

import re
from pathlib import Path


def read_requirements(path: Path) -> tuple[str, ...]:
    """The requirements of a pip lock, one string each, comments and continuations resolved.

    Raises ValueError for a line without an exact version or without a hash.
    """
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    requirements = tuple(" ".join(line.split()) for line in lines if line.strip())
    for line in requirements:
        if not re.match(r"[A-Za-z0-9._-]+==\S+", line) or "--hash=sha256:" not in line:
            raise ValueError(f"'{line.split(' --hash')[0]}' needs an exact version and a sha256 hash")
    return requirements
