"""Format tables and facts: aligned at a terminal, where prose is shortened; elsewhere tab-separated lines.

Names, ids, digests and paths are never cut or wrapped, so a row can be wider than the terminal.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from builder.screen.text import Look, cells, clean, clip, pad, wrap

Cell = str | tuple[str, ...]  # a tuple is a list of names
PROSE = ("summary", "why")  # headers of columns that a terminal shows shortened
_GAP = "  "
_LEAST_PROSE = 12
_UNITS = frozenset({"B", "kB", "MB", "GB", "TB", "ms", "s", "min", "h"})


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    look: Look,
    prose: Collection[str] = PROSE,
) -> str:
    """Format a table with one line per row; at a terminal, numbers align right."""
    texts = [[_text(cell) for cell in row] for row in (headers, *rows)]
    if not look.terminal:
        return "\n".join("\t".join(row) for row in texts)
    widths = [max(map(cells, column)) for column in zip(*texts, strict=True)]
    _shrink(widths, _least(headers, rows, prose), look.width - len(_GAP) * (len(headers) - 1))
    right = [bool(rows) and all(_is_number(row[i]) for row in texts[1:]) for i in range(len(headers))]
    lines = [
        _GAP.join(
            pad(_fit(cell, widths[i]), widths[i], right=right[i]) for i, cell in enumerate(row)
        ).rstrip()
        for row in (headers, *rows)
    ]
    return look.plain("\n".join([look.paint(lines[0], "bold"), *lines[1:]]))


def facts(pairs: Iterable[tuple[str, Cell]], *, look: Look) -> str:
    """Format named values, one per line; at a terminal, long values continue in indented lines."""
    named = [(name, _text(value)) for name, value in pairs]
    if not look.terminal:
        return "\n".join(f"{name}\t{value}" for name, value in named)
    width = max((cells(name) for name, _ in named), default=0)
    room = max(look.width - width - len(_GAP), _LEAST_PROSE)
    lines = [
        pad(name if number == 0 else "", width) + _GAP + line
        for name, value in named
        for number, line in enumerate(wrap(value, room))
    ]
    return look.plain("\n".join(line.rstrip() for line in lines))


def _text(cell: Cell) -> str:
    """Return a cell as one line without tabs and control sequences."""
    text = cell if isinstance(cell, str) else ", ".join(cell)
    return " ".join(clean(text.replace("\r", " ")).split())


def _fit(cell: Cell, width: int) -> str:
    """Shorten a cell to a width: cut a text, or replace the last names of a list with their number."""
    text = _text(cell)
    if isinstance(cell, str) or cells(text) <= width:
        return clip(text, width)
    shorter = (_first(cell, kept) for kept in range(len(cell) - 1, 0, -1))
    return next(text for text in shorter if cells(text) <= width)


def _first(names: tuple[str, ...], kept: int) -> str:
    left_out = len(names) - kept
    return _text(names[:kept]) + (f" +{left_out}" if left_out > 0 else "")


def _least(headers: Sequence[str], rows: Sequence[Sequence[Cell]], prose: Collection[str]) -> dict[int, int]:
    """Return the minimum width of each column that may be shortened, by the column's index."""
    least = {}
    for index, header in enumerate(headers):
        lists = [cell for row in rows if isinstance(cell := row[index], tuple)]
        if lists:
            least[index] = max(cells(header), *(cells(_first(names, 1)) for names in lists))
        elif header in prose:
            least[index] = _LEAST_PROSE
    return least


def _shrink(widths: list[int], least: Mapping[int, int], room: int) -> None:
    """Shrink the widest columns until a row fits; `least` has the minimum width of each such column."""
    for index in least:
        widths[index] = min(widths[index], max(room, least[index]))
    while sum(widths) > room:
        flexible = [index for index in least if widths[index] > least[index]]
        if not flexible:
            return
        widths[max(flexible, key=lambda index: widths[index])] -= 1


def _is_number(text: str) -> bool:
    """True for amounts such as `12`, `1.24 GB` or `1 min 05 s`, False for versions such as `4.1.4-3`."""
    return all(word in _UNITS or word.replace(".", "", 1).isdigit() for word in text.split())
