"""README and guides: links lead to files, pictures are small, and commands exist."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import catalog
from builder.cli.main import VERBS, main

MAX_PICTURE_BYTES = 120 * 1024
VERBS_WITH_ACTIONS = ("init", "ami", "deploy", "registry", "rehearse", "stack")


@pytest.fixture(scope="module")
def pages(root: Path) -> dict[Path, str]:
    paths = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_files_and_headings(pages: dict[Path, str]) -> None:
    broken = []
    for page, text in pages.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if "://" in link:
                continue
            if not target.exists() or (anchor and anchor not in _anchors(target.read_text(encoding="utf-8"))):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_pictures_are_small_and_have_a_description(root: Path, pages: dict[Path, str]) -> None:
    pictures = [
        ((page.parent / name).resolve(), description)
        for page, text in pages.items()
        for description, name in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)
    ]
    assert all(description for _, description in pictures)
    assert {path for path, _ in pictures} == set((root.resolve() / "docs" / "images").glob("*"))
    assert [path.name for path, _ in pictures if path.stat().st_size > MAX_PICTURE_BYTES] == []


def _code(text: str) -> Iterator[str]:
    """Yield the lines of Markdown code blocks without comments, and inline code."""
    parts = re.split(r"^```.*$", text, flags=re.MULTILINE)
    for block in parts[1::2]:
        yield from (line.partition("#")[0] for line in block.splitlines())
    for prose in parts[::2]:
        yield from re.findall(r"`([^`]+)`", prose)


def test_documented_commands_exist(pages: dict[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    unknown = []
    helps: dict[tuple[str, ...], str] = {}
    for page, text in pages.items():
        for line in _code(text):
            called = re.search(r"(?:^|-- |<\()builder ([a-z][^)>|]*)", line)
            if called is None or called[1].startswith("help "):
                continue
            verb, *words = re.split(r"[\s,]+", called[1].partition(" -- ")[0].strip())
            action = words[: 2 if words[:1] == ["cluster"] else 1] if verb in VERBS_WITH_ACTIONS else []
            command = (verb, *action)
            if command not in helps:
                helps[command] = _help(command, capsys) if verb in VERBS else ""
            expected = [word for word in words if word.startswith("--")]
            expected += action
            if verb not in VERBS or any(word not in helps[command] for word in expected):
                unknown.append(f"{page.name}: {line.strip()}")
    assert len(helps) > 10
    assert unknown == []


def _help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_documented_tests_exist(root: Path, pages: dict[Path, str]) -> None:
    named = {match for text in pages.values() for match in re.findall(r"`(test_\w+)::(test_\w+)`", text)}
    assert len(named) > 40
    defined = {
        (path.stem, name)
        for path in (root / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named - defined == set()


def test_documented_make_targets_exist(root: Path, pages: dict[Path, str]) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    known = set(catalog.load(root).targets)
    for targets in re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE):
        known |= set(targets.split())
    called = [re.match(r"make ([a-z][a-z -]*)", line) for text in pages.values() for line in _code(text)]
    found = {target for match in called if match for target in match[1].split()}
    assert len(found) > 5
    assert found - known == set()
