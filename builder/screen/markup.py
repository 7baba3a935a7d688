"""Build HTML; every string is escaped unless it is already Markup."""

import html
import re

from builder.screen.text import clean_lines

_VOID = frozenset({"meta", "br", "hr"})


class Markup(str):
    """String that is already escaped HTML."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | None) -> Markup:
    """Return an HTML element; `cls` sets its class, `_` in attribute names becomes `-`, None is omitted."""
    words = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{words}>")
    return Markup(f"<{name}{words}>{join(*children)}</{name}>")


def join(*children: str | None) -> Markup:
    return Markup("".join(escape(child) for child in children if child is not None))


def escape(text: str) -> Markup:
    """Escape text and remove terminal control sequences; return Markup unchanged."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(clean_lines(text)))


def breakable(text: str) -> Markup:
    """Allow line breaks after the separators of a long name without changing the copied text."""
    return Markup(re.sub(r"([/@:_.,])(?=\w)", r"\1<wbr>", escape(text)))
