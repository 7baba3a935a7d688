"""Read pip lock files: requirements with exact versions and hashes."""

import re
from collections.abc import Iterator
from pathlib import Path

from builder.reading import read_text

_REQUIREMENT = re.compile(
    r"[A-Za-z0-9._-]+(\[[\w,.-]+\])?==[\w.!+-]+( ?; ?[\w\s.'\"<>=!()]+)?( --hash=sha256:[0-9a-f]{64})+"
)
# pip ends such a comment at the end of its line and reads the next line as a requirement or an option.
_CONTINUED_COMMENT = re.compile(r"^\s*#.*\\$", re.MULTILINE)


def read_requirements(path: Path) -> tuple[str, ...]:
    """Return the requirements of a pip lock file, without comments and line continuations.

    Raises ValueError if a requirement lacks an exact version or a sha256 hash.
    """
    content = read_text(path)
    if found := _CONTINUED_COMMENT.search(content):
        number = content.count("\n", 0, found.start()) + 1
        raise ValueError(f"line {number}: '{found[0].strip()}' is a comment that ends in a backslash")
    requirements = []
    for number, joined in _joined_lines(content):
        line = " ".join(re.sub(r"(^|\s)#.*", "", joined).split())
        if not line:
            continue
        if not _REQUIREMENT.fullmatch(line):
            name = line.split(" --hash")[0][:100]
            raise ValueError(f"line {number}: '{name}' needs an exact version and a sha256 hash")
        requirements.append(line)
    return tuple(requirements)


def _joined_lines(content: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) of each line with its continuation lines."""
    first, joined = 1, ""
    for number, line in enumerate(content.split("\n"), start=1):
        if line.endswith("\\"):
            joined += f"{line[:-1]} "
            continue
        for text in f"{joined}{line}".splitlines():
            yield first, text
        first, joined = number + 1, ""
    if joined:  # the last line of the file ends in a backslash
        yield first, f"{joined}\\"
