"""SVG pictures of terminal output: computed screen, and drawn text."""

import io
import xml.etree.ElementTree as ET
from pathlib import Path

from rich.console import Console
from rich.live import Live

from tests.support import pictures
from tests.support.terminal import Screen


def shown(output: str) -> list[str]:
    screen = Screen()
    screen.feed(output)
    return screen.text.split("\n")


def test_computed_screen_equals_the_screen_of_a_terminal() -> None:
    assert shown("\x1b[1;31mred\x1b[0m plain\r\nsecond\rS\r\n") == ["red plain", "Second", ""]
    assert shown("old\r\nold\r\x1b[2K\x1b[1A\x1b[2Knew\r\nlast") == ["new", "last"]


def test_computed_screen_keeps_only_the_last_frame_of_a_live_view() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=40, height=20, legacy_windows=False)
    with Live("one\ntwo", console=console, auto_refresh=False) as live:
        live.update("three\nfour\nfive", refresh=True)
    frames = stream.getvalue().replace("\n", "\r\n")
    assert [line for line in shown(frames) if line] == ["three", "four", "five"]


def test_picture_contains_every_text_in_its_colour() -> None:
    screen = Screen()
    screen.feed("\r\n\x1b[32mgood\x1b[0m <& \x1b[2mdim\x1b[0m\r\n\r\n")
    tree = ET.fromstring(pictures.svg([("builder plan x", screen)]))
    texts = {element.text: element.get("style") for element in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert texts == {
        "$": "fill:#8cc265",
        "builder plan x": "fill:#fff",
        "good": "fill:#8cc265",
        " <&": "fill:#d0d4dc",
        "dim": "fill:#8b919c",
    }


def test_picture_wraps_long_lines_and_joins_empty_lines() -> None:
    screen = Screen()
    screen.feed("x" * 150 + "\r\n\r\n\r\n\r\nend\r\n")
    tree = ET.fromstring(pictures.svg([("a", screen)]))
    texts = [(e.get("y"), e.text) for e in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[2:] == [("72", "x" * 100), ("90", "x" * 50), ("126", "end")]


def test_every_picture_is_in_the_readme_and_its_edit_applies(root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    for name, picture in pictures.PICTURES.items():
        assert f"docs/images/{name}.svg" in readme
        assert (root / "docs/images" / f"{name}.svg").is_file()
        if picture.file:
            assert picture.replace[0] in (root / picture.file).read_text(encoding="utf-8")
