"""Find the commands of the builder in texts: in the strings of the source and in printed messages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from builder.cli.main import VERBS

FILLED = "1"  # stands for a value that the program puts into a message; a number fits every option
# Matches the end of a command within a sentence.
_END = re.compile(r"[;`\n()<>|…]|, |: |  #|\.$| (?:then|shows|and|on|in|to|again|with|there|from)\b")
# Suffix of commands found in backticks, which may lack their arguments.
MENTION = "# mentioned"


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line number and text of every string (computed parts replaced) and of every list of words."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, _filled(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value
        elif isinstance(node, ast.List) and node.elts and _word(node.elts[0]) == "builder":
            words = [_word(word) for word in node.elts if not isinstance(word, ast.Starred)]
            yield node.lineno, " ".join(words)


def _filled(node: ast.JoinedStr) -> str:
    """Return the text of an f-string with FILLED for each computed part, except parts that end a word."""
    text = ""
    for part in node.values:
        text += "" if not isinstance(part, ast.Constant) and re.search(r"\w$", text) else _word(part)
    return text


def _word(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else FILLED


def commands_in(text: str) -> Iterator[str]:
    """Yield the commands of the builder in a text, with MENTION after those in backticks."""
    for match in re.finditer(r"(?<![\w./-])builder (?=[a-z])", text):
        rest = text[match.end() :]
        end = _END.search(rest)
        command = f"builder {rest[: end.start()] if end else rest}".strip().rstrip(".,:")
        if command.count("'") % 2:
            command = command.removesuffix("'")
        if text[match.start() - 1 : match.start()] == "`":  # a mention, perhaps without its arguments
            command += f" {MENTION}"
        if command.split()[1] in VERBS or "hint" in text:
            yield command


def commands_in_source(root: Path) -> Iterator[tuple[str, str]]:
    """Yield place and command of every command in a string of the source."""
    for path in sorted((root / "builder").rglob("*.py")):
        for line, text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            for command in commands_in(text):
                yield f"{path.relative_to(root)}:{line}", command
