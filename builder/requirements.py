"""Read pip lock files: requirements with exact versions and hashes."""

import re
from pathlib import Path


def read_requirements(path: Path) -> tuple[str, ...]:
    """Return the requirements of a pip lock file, without comments and line continuations.

    Raises ValueError if a requirement lacks an exact version or a sha256 hash.
    """
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    requirements = tuple(" ".join(line.split()) for line in lines if line.strip())
    for line in requirements:
        if not re.match(r"[A-Za-z0-9._-]+==\S+", line) or "--hash=sha256:" not in line:
            raise ValueError(f"'{line.split(' --hash')[0]}' needs an exact version and a sha256 hash")
    return requirements
