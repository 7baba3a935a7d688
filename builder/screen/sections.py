"""Sections of the HTML report, as pure functions."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap

from builder.model import Check, Layer, LayerResult, Plan, Publication, Report
from builder.plan import to_json
from builder.screen.attempt import Attempt, layers_of
from builder.screen.markup import Markup, breakable, tag
from builder.screen.steps import Board, Row
from builder.screen.text import STYLE_OF_OUTCOME, count, duration, short, size, transferred

_UNREACHED = "not reached"
# Percent of the timeline's width that a duration such as "1 min 05 s" takes on a small screen.
_ROOM_FOR_FIGURE = 25


def section(title: str, *content: str | None, note: str = "") -> Markup:
    heading = tag("h2", title, tag("small", f" {note}") if note else None)
    return tag("section", heading, *content)


def problem(attempt: Attempt, board: Board) -> Markup | None:
    """Return the error and the last log lines of a failed run."""
    error = attempt.error
    if error is None:
        return None
    logs = (_log(row, board) for row in board.failed if board.tail(row.step))
    return tag(
        "section",
        tag("h2", error.message),
        tag("pre", error.details) if error.details else None,
        tag("p", "Hint: ", tag("code", error.hint)) if error.hint else None,
        *logs,
        cls="problem",
    )


def _log(row: Row, board: Board) -> Markup:
    tail = tag("pre", "\n".join(board.tail(row.step)))
    return tag("details", tag("summary", f"{row.full_title}: end of the log"), tail, open="")


def layers(attempt: Attempt) -> Markup:
    made = {layer.key: layer for layer in attempt.layers}
    longest = max((layer.seconds for layer in attempt.layers), default=0)
    largest = max((layer.size_bytes for layer in attempt.layers), default=0)
    head = tag(
        "tr",
        tag("th", "Layer"),
        tag("th", "Outcome"),
        tag("th", "Time", cls="num"),
        tag("th", "Size", cls="num"),
        tag("th", "Key"),
    )
    rows = (_layer(layer, made.get(layer.key), longest, largest) for layer in attempt.expected)
    table = tag("table", tag("thead", head), tag("tbody", *rows), cls="layers")
    return section("Layers", table, note="base first")


def _layer(layer: Layer, made: LayerResult | None, longest: float, largest: int) -> Markup:
    contents = tag("p", breakable(", ".join(layer.components))) if layer.components else None
    reason = tag("small", f" {made.reason}") if made and made.reason else None
    seconds, size_bytes = (made.seconds, made.size_bytes) if made else (0.0, 0)
    return tag(
        "tr",
        tag("td", tag("b", breakable(layer.name)), contents, cls="what"),
        tag("td", badge(made.outcome if made else _UNREACHED), reason, cls="why"),
        _amount("Time", duration(seconds) if seconds else "", seconds, longest),
        _amount("Size", size(size_bytes) if size_bytes else "", size_bytes, largest),
        tag("td", tag("code", short(layer.key), title=layer.key), cls="key"),
    )


def _amount(label: str, text: str, value: float, most: float) -> Markup:
    share = 100 * value / most if most else 0
    bar = tag("span", tag("span", style=f"width:{share:.1f}%"), cls=f"bar {label.lower()}") if text else None
    return tag("td", tag("span", text or "–"), bar, cls="num", data_label=label)  # noqa: RUF001


def badge(outcome: str) -> Markup:
    return tag("span", outcome, cls=f"badge {_tone(outcome)}")


def _tone(outcome: str) -> str:
    return STYLE_OF_OUTCOME.get(outcome, "dim")


def timeline(board: Board, plan: Plan) -> Markup | None:
    """Return a chart with one bar per step; overlapping bars are steps that ran in parallel."""
    if not board.rows:
        return None
    rows = sorted(board.rows.values(), key=lambda row: row.started_s)
    span = max(board.last_s - board.started_s, 0.001)
    busy = sum(max(row.ended_s - row.started_s, 0) for row in rows)
    ticks = _ticks(span)
    marks = (_mark(tick, 100 * tick / span) for tick in ticks)
    names = {layer.key: layer.name for layer in layers_of(plan)}
    titles = (names.get(row.key) or row.title for row in rows)
    grid = f"--tick:{100 * (ticks[1] if len(ticks) > 1 else span) / span:.3f}%"
    bars = (_bar(row, board.started_s, span, name=name) for row, name in zip(rows, titles, strict=True))
    note = f"{duration(span)}; steps add up to {duration(busy)}"
    return section(
        "Timeline", tag("div", tag("div", *marks, cls="ticks"), *bars, cls="timeline", style=grid), note=note
    )


def _bar(row: Row, start_s: float, span: float, *, name: str) -> Markup:
    left = min(max(100 * (row.started_s - start_s) / span, 0), 100)
    width = min(max(100 * (row.ended_s - row.started_s) / span, 0), 100 - left)
    # The duration is written on the side of the bar that has more room, or inside if neither has enough.
    right = 100 - left - width
    side = "inside" if max(left, right) < _ROOM_FOR_FIGURE else "before" if left > right else "after"
    took = duration(row.took_s) if row.took_s else ""
    position = f"left:{left:.2f}%;width:{width:.2f}%"
    bar = tag("i", cls=_tone(row.outcome), style=position, title=f"{row.outcome}, {took}".rstrip(", "))
    edges = f"--left:{left:.2f}%;--right:{right:.2f}%"
    return tag(
        "div",
        tag("span", name, cls="step", title=row.full_title),
        tag("span", bar, tag("em", took, cls=side, style=edges), cls="track"),
        cls="lane",
    )


def _mark(seconds: float, left: float) -> Markup:
    words = duration(seconds).replace(".0 s", " s").replace(" 00 s", "") if seconds else "0"
    return tag("span", words, cls="last" if left > 90 else None, style=f"left:{left:.2f}%")


def _ticks(span: float) -> list[float]:
    """Return round times that divide the timeline into four to eight parts."""
    rough = span / 6
    steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800]
    scale = 10 ** math.floor(math.log10(rough))
    step = next((x for x in steps if x >= rough), 28800) if rough >= 1 else _nice(rough / scale) * scale
    return [index * step for index in range(int(span / step) + 1)]


def _nice(factor: float) -> int:
    return next(nice for nice in (1, 2, 5, 10) if nice >= factor)


def checks(report: Report | None) -> Markup | None:
    if report is None:
        return None
    groups: dict[str, list[Check]] = {}
    for check in report.checks:
        groups.setdefault(check.component, []).append(check)
    skips = Counter(
        check.message or "no reason given" for check in report.checks if check.outcome == "skipped"
    )
    reasons = tag(
        "div",
        tag("h3", "Skipped checks"),
        tag("ul", *(tag("li", tag("b", str(number)), f" {why}") for why, number in skips.items())),
        cls="skips",
    )
    note = f"{count(len(report.checks), 'check')} in {duration(report.seconds)}"
    return section("Checks", *starmap(_component, groups.items()), reasons if skips else None, note=note)


def _component(component: str, checks: Sequence[Check]) -> Markup:
    counts = Counter(check.outcome for check in checks)
    words = ", ".join(f"{counts[word]} {word}" for word in ("passed", "failed", "skipped") if counts[word])
    dots = (tag("i", cls=_tone(check.outcome), title=f"{check.name}: {check.outcome}") for check in checks)
    summary = tag(
        "summary",
        tag("b", breakable(component)),
        tag("span", *dots, cls="dots", aria_hidden="true"),
        tag("span", words, cls="counts"),
        tag("span", duration(sum(check.seconds for check in checks)), cls="num"),
    )
    rows = tag("ul", *(_check(check) for check in checks), cls="checks")
    return tag("details", summary, rows, cls="component", open="" if counts["failed"] else None)


def _check(check: Check) -> Markup:
    message = check.message if check.outcome == "failed" else ""
    reason = check.message if check.outcome == "skipped" else ""
    return tag(
        "li",
        badge(check.outcome),
        tag("span", breakable(check.name), tag("small", f" {reason}") if reason else None, cls="name"),
        tag("span", duration(check.seconds), cls="num"),
        tag("pre", message) if message else None,
    )


def publications(attempt: Attempt) -> Markup | None:
    if not attempt.publications:
        return None
    now = (_publication(item, duration(item.seconds)) for item in attempt.published)
    before = (_publication(item, f"published {item.created}") for item in attempt.published_before)
    return section("Published", tag("ul", *now, *before, cls="published"))


def _publication(publication: Publication, fact: str) -> Markup:
    facts = (transferred(publication.pushed_bytes, publication.reused_bytes), fact)
    words = " · ".join(fact for fact in facts if fact)
    names = (tag("code", breakable(name)) for name in publication.tags)
    return tag(
        "li", tag("code", breakable(publication.name)), tag("p", words), *(tag("p", name) for name in names)
    )


def versions(planned: Mapping[str, str], found: Mapping[str, str] | None) -> Markup | None:
    """Return a section with the versions in the image, and the planned version where it differs."""
    names = sorted({*planned, *(found or {})})
    if not names:
        return None
    entries = (_version(name, planned.get(name, ""), (found or {}).get(name, "")) for name in names)
    return section("Versions", tag("dl", *entries, cls="versions"), note=f"{len(names)} pinned")


def _version(name: str, planned: str, found: str) -> Markup:
    differs = bool(planned and found and planned != found)
    words = f"{found} (plan: {planned})" if differs else found or planned
    return tag(
        "div", tag("dt", breakable(name)), tag("dd", breakable(words)), cls="differs" if differs else None
    )


def environment(facts: Mapping[str, str]) -> Markup | None:
    if not facts:
        return None
    return section("Environment", pairs(facts.items()))


def pairs(facts: Iterable[tuple[str, str]]) -> Markup:
    rows = (tag("div", tag("dt", breakable(name)), tag("dd", breakable(value))) for name, value in facts)
    return tag("dl", *rows, cls="pairs")


def settings(carried: Mapping[str, Sequence[str]]) -> Markup | None:
    """Return the settings that jobs need, by EC2 type."""
    if not carried:
        return None
    rows = [
        tag("div", tag("dt", "any instance type" if name == "*" else name), tag("dd", ", ".join(values)))
        for name, values in carried.items()
    ]
    return section("Settings for jobs", tag("dl", *rows, cls="versions"))


def plan(plan: Plan) -> Markup:
    text = json.dumps(to_json(plan), indent=2, sort_keys=True, ensure_ascii=False)
    lines = tag("small", count(text.count("\n") + 1, "line"))
    summary = tag("summary", "All inputs of this build as JSON ", lines)
    return section("Plan", tag("details", summary, tag("pre", text)))
