"""Read pip lock files (exact versions and hashes) and the requirements.in files they are compiled from."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from builder.reading import read_text

_REQUIREMENT = re.compile(
    r"[A-Za-z0-9._-]+(\[[\w,.-]+\])?==[\w.!+-]+( ?; ?[\w\s.'\"<>=!()]+)?( --hash=sha256:[0-9a-f]{64})+"
)
# Comment that ends in a backslash; pip still reads the next line as a requirement or an option.
_CONTINUED_COMMENT = re.compile(r"^\s*#.*\\$", re.MULTILINE)
# Line of a compiled lock file with the digest of its requirements.in.
_COMPILED = re.compile(r"^# requirements\.in sha256:([0-9a-f]{64})$", re.MULTILINE)
# Line of a requirements.in: a package name with extras, versions and a marker; no option, path, URL, and
# no environment variable, whose value pip would insert.
_SOURCE = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?) *(\[[\w, .-]*\])? *(?!-)(?:(?! -)[^@/\\$])*", re.ASCII
)


def read_requirements(path: Path) -> tuple[str, ...]:
    """Return the requirements of a pip lock file, without comments and line continuations.

    Raises ValueError if a requirement lacks an exact version or a sha256 hash.
    """
    return parse_requirements(read_text(path))


def parse_requirements(content: str) -> tuple[str, ...]:
    """Return the requirements in the text of a pip lock file."""
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


def is_locked(line: str) -> bool:
    """Return True if a line is a requirement with an exact version and a sha256 hash."""
    return bool(_REQUIREMENT.fullmatch(line))


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


def read_source(path: Path) -> tuple[str, ...]:
    """Return the requirements of a requirements.in; raise ValueError if one is not a package of an index."""
    requirements = []
    for number, joined in _joined_lines(read_text(path)):
        line = " ".join(re.sub(r"(^|\s)#.*", "", joined).split())
        if line and not _SOURCE.fullmatch(line):
            reason = "is not a package name with optional versions, extras and marker"
            raise ValueError(f"line {number}: '{line[:100]}' {reason}")
        requirements += [line] * bool(line)
    return tuple(requirements)


def versions_of(requirements: Iterable[str]) -> dict[str, str]:
    """Map the names in locked requirements, as indexes normalize them, to their versions."""
    pairs = (line.split()[0].rstrip(";").split("==") for line in requirements)
    return {normalized(name.partition("[")[0]): version for name, version in pairs}


def normalized(name: str) -> str:
    """Return the normalized name of a Python package, as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def heading(source: Iterable[str]) -> str:
    """Return the first comment lines of a lock file that is compiled from a requirements.in."""
    digest = _digest(source)
    return f"# Compiled from requirements.in by: builder lock TARGET\n# requirements.in sha256:{digest}\n"


def is_outdated(lock: Path) -> bool:
    """Return True if the requirements.in beside a lock has changed since the lock was compiled from it.

    A lock file of another tool has no digest; it is outdated if it lacks a package of requirements.in.
    """
    source = lock.with_suffix(".in")
    if not source.is_file():
        return False
    wanted = read_source(source)
    if not lock.is_file():
        return True
    if found := _COMPILED.search(read_text(lock)):
        return found[1] != _digest(wanted)
    names = {normalized(match["name"]) for line in wanted if (match := _SOURCE.fullmatch(line))}
    try:
        return not names <= versions_of(read_requirements(lock)).keys()
    except ValueError:  # not a lock
        return True


def _digest(source: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(source).encode()).hexdigest()
