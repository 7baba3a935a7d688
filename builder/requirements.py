"""Read pip lock files: requirements with exact versions and hashes."""

import re
from pathlib import Path

_REQUIREMENT = re.compile(
    r"[A-Za-z0-9._-]+(\[[\w,.-]+\])?==[\w.!+-]+( ?; ?[\w\s.'\"<>=!()]+)?( --hash=sha256:[0-9a-f]{64})+"
)
# pip ends such a comment at the end of its line and reads the next line as a requirement or an option.
_CONTINUED_COMMENT = re.compile(r"^\s*#.*\\$", re.MULTILINE)


def read_requirements(path: Path) -> tuple[str, ...]:
    """Return the requirements of a pip lock file, without comments and line continuations.

    Raises ValueError if a requirement lacks an exact version or a sha256 hash.
    """
    content = path.read_text(encoding="utf-8")
    if found := _CONTINUED_COMMENT.search(content):
        raise ValueError(f"'{found[0].strip()}' is a comment that ends in a backslash")
    text = re.sub(r"\\\n", " ", content)
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    requirements = tuple(" ".join(line.split()) for line in lines if line.strip())
    for line in requirements:
        if not _REQUIREMENT.fullmatch(line):
            raise ValueError(f"'{line.split(' --hash')[0]}' needs an exact version and a sha256 hash")
    return requirements
