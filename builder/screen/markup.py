"""HTML by construction: every string is escaped unless it came out of `tag` itself."""

import html
import re

from builder.screen.text import clean

_VOID = frozenset({"meta", "br", "hr"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | None) -> Markup:
    """One element; `cls` stands for class, underscores in attribute names for dashes, None for absent."""
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
    """Escapes text and drops what a terminal would obey; passes markup through."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape("\n".join(clean(line) for line in text.split("\n"))))


def breakable(text: str) -> Markup:
    """A long name that may be broken after its separators, and only copies as itself."""
    return Markup(re.sub(r"([/@:_.,])(?=\w)", r"\1<wbr>", escape(text)))
