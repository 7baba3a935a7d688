"""Read the files that lint rules check, with kind, Dockerfile instructions and shell commands."""

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from builder.dockerfile import Instruction, instructions
from builder.errors import MissingError, UsageError
from builder.lint.shell import Command, commands
from builder.reading import read_text, shortened

# Kind of file → patterns of its name, in lower case; the first that matches counts.
KINDS = {
    "script": ("*.sbatch", "*.slurm", "*.sh", "*.bash", "*.sbatch.template"),
    "manifest": ("*.yaml", "*.yml", "*.yaml-template", "*.yaml.template", "*.yml.template"),
    "Makefile": ("makefile", "*.mk"),
    "Python": ("*.py",),
    "text": ("*.md", "*.txt", "*.toml", "*.json", "*.ipynb", "*.cfg", "*.ini", "*.env", "*.conf", "*.in"),
    "Dockerfile": ("dockerfile", "dockerfile.*", "*.dockerfile", "containerfile", "*.containerfile"),
}
# Folders created by tools and builds, whose files are not checked.
_SKIPPED = frozenset(("node_modules", "site-packages", "__pycache__", "venv", "out"))
_SHOWN = frozenset((".github", ".gitlab", ".ci"))
_FLAG = re.compile(r"^(?:--\w+(?:=\S*)?\s+)+")
_IGNORE = re.compile(r"#\s*builder lint ignore=([\w,-]+)")

# Variable assignments: NAME=VALUE (ENV, export), NAME: VALUE, or `name: NAME` above `value: VALUE`.
_ASSIGNED = re.compile(
    r"""(?:^|[\s"'-])([A-Z][A-Z0-9_]{2,})\s*[=:]\s*["']?([^\s"'\\]+)|^\s*-?\s*name:\s*["']?([A-Z][A-Z0-9_]{2,})["']?\s*$"""
)
_LEGACY = re.compile(r"^\s*ENV\s+([A-Z][A-Z0-9_]{2,})\s+([^=\s]+)\s*$")
_VALUE = re.compile(r"^\s*value:\s*[\"']?(.*?)[\"']?\s*$")


@dataclass(frozen=True)
class File:
    """A file to check: its path as shown in messages, its kind and its text."""

    path: PurePosixPath
    kind: str
    text: str

    @cached_property
    def lines(self) -> tuple[tuple[int, str], ...]:
        return tuple(enumerate(self.text.split("\n"), start=1))

    @cached_property
    def code(self) -> tuple[tuple[int, str], ...]:
        """The lines of the file that are not comments."""
        return tuple((number, line) for number, line in self.lines if not line.lstrip().startswith("#"))

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The instructions of a Dockerfile; none for another file."""
        return instructions(self.text) if self.kind == "Dockerfile" else ()

    @cached_property
    def runs(self) -> tuple[tuple[Command, ...], ...]:
        """The commands of each RUN of a Dockerfile; all commands of a script as one group."""
        if self.kind == "Dockerfile":
            return tuple(self._run(found) for found in self.instructions if found.name == "RUN")
        return (commands(self.lines),) if self.kind == "script" else ()

    @property
    def commands(self) -> Iterator[Command]:
        return (command for run in self.runs for command in run)

    def _run(self, run: Instruction) -> tuple[Command, ...]:
        first, *rest = [line for line in self.lines[run.line - 1 : run.end] if line[1].strip()]
        text = _FLAG.sub("", first[1].strip()[len("RUN") :].lstrip())
        if text.startswith("<<"):  # the commands are the lines of the here-document
            return commands(rest[:-1])
        return commands([(first[0], text), *rest])

    @cached_property
    def assigned(self) -> tuple[tuple[int, str, str], ...]:
        """(line, name, value) of each variable that the file sets: ENV, export, or `env:` of a manifest."""
        return tuple(_assignments(self.code))

    @cached_property
    def ignored(self) -> dict[int, frozenset[str]]:
        """Rules that an ignore comment disables, by line: the line of the comment and the next line."""
        found: dict[int, frozenset[str]] = {}
        for number, line in self.lines:
            if comment := _IGNORE.search(line):
                rules = frozenset(comment[1].split(","))
                for at in (number, number + 1):
                    found[at] = found.get(at, frozenset()) | rules
        return found


def _assignments(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    name = ""
    for number, line in lines:
        if name and (value := _VALUE.match(line)):
            yield number, name, value[1]
        name = ""
        if legacy := _LEGACY.match(line):
            yield number, legacy[1], legacy[2]
        for found in _ASSIGNED.finditer(line):
            if found[3]:
                name = found[3]
            else:
                yield number, found[1], found[2]


@dataclass(frozen=True)
class Tree:
    """All files of a tree, for rules that compare several files."""

    files: tuple[File, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(file.path.name for file in self.files)

    @cached_property
    def options_of(self) -> dict[str, frozenset[str]]:
        """Options that Python programs define with argparse, by file name; files of one name are merged."""
        found: dict[str, frozenset[str]] = {}
        for file in self.of_kind("Python"):
            options = re.findall(r"add_argument\(\s*(?:['\"]-\w['\"],\s*)?['\"](--[\w-]+)", file.text)
            found[file.path.name] = found.get(file.path.name, frozenset()) | frozenset(options)
        return found

    def of_kind(self, *kinds: str) -> Iterator[File]:
        return (file for file in self.files if file.kind in kinds)


def kind_of(path: Path) -> str:
    """Return the kind of a file by name or, if the name has no suffix, by first line; "" if unknown."""
    name = path.name.lower()
    for kind, patterns in KINDS.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return kind
    if "." not in name and _first_line(path).startswith(b"#!") and b"sh" in _first_line(path):
        return "script"
    return ""


def _first_line(path: Path) -> bytes:
    try:
        if not path.is_file():  # opening a named pipe would wait for its writer
            return b""
        with path.open("rb") as file:
            return file.readline(80)
    except OSError:
        return b""


def read_tree(path: Path) -> tuple[Tree, tuple[tuple[str, str], ...]]:
    """Return the files of a folder, or one file, and (path, reason) of each file that cannot be read.

    Raises MissingError if `path` does not exist, UsageError if it is a file of a kind that no rule covers.
    """
    if path.is_symlink() and not path.exists():
        raise MissingError(f"{path}: is a symbolic link that leads to no file", hint=f"ls -l {path}")
    if not path.exists():
        raise MissingError(f"no such file or folder: {shortened(str(path), 300)}", hint="builder lint FOLDER")
    if path.is_file():
        kind = kind_of(path)
        if not kind:
            raise UsageError(
                f"{path}: its name is not that of a Dockerfile, script, manifest or text file",
                hint=f"builder lint {path.parent}",
            )
        return _read([(path, kind)])
    if not path.is_dir():
        raise UsageError(f"{path}: is not a regular file or folder", hint="builder lint FOLDER")
    return _read(list(_walk(path)))


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    for name, folders, files in os.walk(folder):
        folders[:] = sorted(
            inner for inner in folders if inner in _SHOWN or not (inner.startswith(".") or inner in _SKIPPED)
        )
        for file in sorted(files):
            path = Path(name, file)
            if not path.is_symlink() and path.is_file() and (kind := kind_of(path)):
                yield path, kind


def _read(paths: Sequence[tuple[Path, str]]) -> tuple[Tree, tuple[tuple[str, str], ...]]:
    files, unread = [], []
    for path, kind in paths:
        name = PurePosixPath(_shown(path).as_posix())
        try:
            files.append(File(name, kind, read_text(path)))
        except (ValueError, OSError) as error:
            unread.append((str(name), str(error)))
    return Tree(tuple(files)), tuple(unread)


def _shown(path: Path) -> Path:
    """Return a path below the current folder as a relative path, other paths unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
