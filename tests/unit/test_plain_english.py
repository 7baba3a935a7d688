"""Wording rules for docstrings, messages, names and documentation; CONTRIBUTING.md describes the style."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

CODE = ("builder", "tests", "ansible", "bench", "scripts", "containers", "packer", ".ci")
DOCS = ("docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
# A docstring begins with a verb, or with a noun that says what the object is.
OPENINGS = re.compile(r"(What|Whether|Who|Those|Around|Something|Nothing|Everything|Whatever|Whoever|One)\b")
# Forbidden subjects: texts name programs, files and users instead. Underscores count as word separators.
PERSONS = re.compile(r"(?<![a-z])(nobody|somebody|whoever|anybody)(?![a-z])", re.IGNORECASE)
# Permitted uses of the words in PERSONS.
ALLOWED = {
    r"(su|-u|-s /bin/\w+|user) nobody\b": "the Unix user with that name",
    r"\"nobody\"": "the Unix user with that name, as an argument",
    r"\bAS_NOBODY\b": "a command line that runs a program as that user",
}


def _tracked(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and text of all tracked text files except this file."""
    done = subprocess.run(
        ["git", "-C", str(root), "ls-files", *CODE, *DOCS], capture_output=True, text=True, check=True
    )
    for name in done.stdout.splitlines():
        path = root / name
        if name == "tests/unit/test_plain_english.py" or path.is_symlink() or not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture


def _docstrings(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node.body[0].lineno, docstring.splitlines()[0]


def findings(name: str, text: str) -> list[str]:
    """Return the violations in a file, with line numbers."""
    allowed = re.compile("|".join(ALLOWED))
    found = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if PERSONS.search(allowed.sub("", line))
    ]
    if name.endswith(".py"):
        found += [(number, line) for number, line in _docstrings(text) if OPENINGS.match(line)]
    return [f"{name}:{number}: {line}" for number, line in sorted(found)]


def test_texts_are_in_plain_english(root: Path) -> None:
    assert [finding for name, text in _tracked(root) for finding in findings(name, text)] == []


def test_every_permitted_use_of_a_forbidden_word_occurs(root: Path) -> None:
    texts = [text for _, text in _tracked(root)]
    assert [pattern for pattern in ALLOWED if not any(re.search(pattern, text) for text in texts)] == []


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        (
            "tags.py",
            '"""Tools for tags."""\n\n\ndef tag() -> str:\n    """What an image is called."""\n',
            [5],
        ),
        ("tags.py", 'class Tag:\n    """One tag of an image."""\n', [2]),
        ("tags.py", 'raise ValueError("nobody knows this tag")\n# Somebody deleted it.\n', [1, 2]),
        ("tags.py", "def test_what_nobody_asked_for() -> None: ...\n", [1]),
        ("guide.md", "Run it as the user nobody.\nWhoever follows `latest` finds an image.\n", [2]),
        ("tasks/main.yml", "# One item per line; what follows is a list.\n", []),
    ],
)
def test_wording_rules_find_bad_texts(name: str, text: str, lines: list[int]) -> None:
    assert [int(finding.split(":")[1]) for finding in findings(name, text)] == lines
