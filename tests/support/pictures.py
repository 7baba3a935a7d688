"""Draw docs/images/*.svg from the terminal output of real commands:

    python -m tests.support.pictures [terminal] [check] [failure] [doctor]

Build cpu-ddp first: the picture `terminal` shows which layers an edit of a file rebuilds, and why.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import dedent

from tests.support.stub_server import Asked, Stub, serving
from tests.support.terminal import Line, Screen, Style, run, text_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "images"
COLUMNS = 100
BOUND_S = 1800
_SHOWN_ROOT = "/srv/image-factory"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Commands to run while a text in a file is replaced; the last command ends with exit code `code`.

    `site` is the text of the site file of the commands; SERVER in the text is a server on this machine.
    """

    commands: tuple[str, ...]
    file: str = ""
    replace: tuple[str, str] = ("", "")
    code: int = 0
    site: str = ""


_FOLDER_OF_TARGET = "containers/cpu-ddp"
PICTURES: Mapping[str, Picture] = {
    "terminal": Picture(
        commands=("builder plan cpu-ddp", "builder build cpu-ddp"),
        file=f"{_FOLDER_OF_TARGET}/src/train.py",
        replace=("import", f"# {time.time()}\nimport"),  # a new text each time
    ),
    "check": Picture(commands=("builder check cpu-ddp:cpu-debian-12",)),
    "failure": Picture(
        commands=("builder build cpu-ddp",),
        file=f"{_FOLDER_OF_TARGET}/Dockerfile",
        replace=("USER 65534", "RUN python -c 'import torhc'\n\nUSER 65534"),
        code=4,
    ),
    "doctor": Picture(
        commands=("builder doctor",),
        site="""
            [mirror]
            apt = "http://SERVER/debian"
            pip_index = "http://SERVER/simple"
            only = true
            prefixes = { "https://github.com/" = "file:///srv/mirror/github.com/" }
            [registry]
            push = "SERVER/training"
        """,
        code=3,
    ),
}
_RELEASE = b"Origin: Debian\nDate: Sat, 28 Nov 2026 10:00:00 UTC\n"
# Character width, line height, margin and y position of the first line, in pixels.
_WIDTH, _HEIGHT, _MARGIN, _TOP = 8.4, 18, 16, 54
_TEXT, _BOLD, _DIM, _PROMPT = "#d0d4dc", "#fff", "#8b919c", "#8cc265"
_BUTTONS = ((20, "#e06c75"), (40, "#d5b06b"), (60, "#8cc265"))


def svg(screens: Sequence[tuple[str, Screen]]) -> str:
    """Return an SVG picture of commands, each followed by the terminal screen after the command."""
    lines: list[Line] = []
    for command, screen in screens:
        prompt = [(c, Style(_PROMPT)) for c in "$ "] + [(c, Style(bold=True)) for c in command]
        lines += [[], prompt, *(part for line in screen.lines for part in _wrapped(line))]
    filled = [number for number, line in enumerate(lines) if text_of(line).strip()]
    filled += [number + 1 for number in filled]  # and one empty line after each paragraph
    lines = [lines[number] for number in sorted(set(filled))[:-1]]
    width, height = round(2 * _MARGIN + COLUMNS * _WIDTH), _TOP + len(lines) * _HEIGHT
    size = f'width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} role="img">',
            f"<title>{escape(' and '.join(command for command, _ in screens))} in a terminal</title>",
            "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"
            f'"DejaVu Sans Mono",monospace;fill:{_TEXT};white-space:pre}}</style>',
            f'<rect {size} rx="8" fill="#1e222a"/>',
            *(f'<circle cx="{x}" cy="18" r="6" fill="{colour}"/>' for x, colour in _BUTTONS),
            *(text for number, line in enumerate(lines) for text in _texts(line, _TOP + number * _HEIGHT)),
            "</svg>\n",
        ]
    )


def _wrapped(line: Line) -> list[Line]:
    """Split a line into lines that are not longer than the terminal width."""
    return [line[start : start + COLUMNS] for start in range(0, max(len(line), 1), COLUMNS)]


def _texts(line: Line, y: int) -> Iterator[str]:
    """Yield an SVG text element for each run of characters with the same style in a line."""
    start = 0
    while start < len(line):
        style, end = line[start][1], start
        while end < len(line) and line[end][1] == style:
            end += 1
        if text := text_of(line[start:end]).rstrip():
            colour = style.colour or (_DIM if style.dim else _BOLD if style.bold else _TEXT)
            weight = ' font-weight="bold"' if style.bold else ""
            yield (
                f'<text x="{_MARGIN + start * _WIDTH:.1f}" y="{y}" textLength="{len(text) * _WIDTH:.1f}"'
                f' lengthAdjust="spacingAndGlyphs"{weight} style="fill:{colour}">{escape(text)}</text>'
            )
        start = end


@contextmanager
def edited(picture: Picture) -> Iterator[None]:
    """Apply the text replacement of a picture to its file, and restore the file at the end of the block."""
    path = ROOT / picture.file
    before = path.read_text(encoding="utf-8") if picture.file else ""
    try:
        if picture.file:
            path.write_text(before.replace(*picture.replace, 1), encoding="utf-8")
        yield
    finally:
        if picture.file:
            path.write_text(before, encoding="utf-8")


@contextmanager
def surroundings(picture: Picture) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Yield the environment of a picture's commands, and replacements for texts of this machine."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    terminal = {"TERM": "xterm", "COLUMNS": str(COLUMNS), "PATH": path}
    shown = {str(ROOT): _SHOWN_ROOT}
    if not picture.site:
        yield {**os.environ, **terminal}, shown
        return

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, _RELEASE if "InRelease" in asked.line else b""

    with tempfile.TemporaryDirectory() as folder, serving(Stub(answer=answer)) as stub:
        file = Path(folder) / "site.toml"
        file.write_text(dedent(picture.site).replace("SERVER", stub.host), encoding="utf-8")
        own = {"HOME": folder, "PIP_CONFIG_FILE": os.devnull, "BUILDER_SITE_FILE": str(file)}
        shown |= {str(file): f"{_SHOWN_ROOT}/site.toml", folder: "~"}
        shown |= {f"http://{stub.host}": "https://mirror.example.org", stub.host: "registry.example.org"}
        yield {**terminal, **own}, shown


def draw(name: str) -> None:
    """Run the commands of a picture and write its SVG file."""
    picture, screens = PICTURES[name], []
    with edited(picture), surroundings(picture) as (environment, shown):
        for command in picture.commands:
            code, output = run(
                command, folder=ROOT, environment=environment, columns=COLUMNS, bound_s=BOUND_S
            )
            if code != (picture.code if command == picture.commands[-1] else 0):
                sys.exit(f"{command}: exit code {code}\n{output}")
            for text, replacement in shown.items():
                output = output.replace(text, replacement)
            screen = Screen()
            screen.feed(output)
            screens.append((command, screen))
    (FOLDER / f"{name}.svg").write_text(svg(screens), encoding="utf-8")
    print(f"docs/images/{name}.svg")


if __name__ == "__main__":
    for each in sys.argv[1:] or PICTURES:
        draw(each)
